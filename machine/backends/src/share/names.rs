//! Requests about names: finding files by them, making and removing them.

use std::io;

use host::tree::errno::{EINVAL, EPERM};
use host::tree::{Name, Node, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK, S_ISGID, Status, error};

use super::nodes::Told;
use super::server::Server;
use super::wire::{Arguments, ENTRY, Header, Reply};

/// Flags of renameat2(2) that can be asked for: RENAME_NOREPLACE and RENAME_EXCHANGE.
const RENAME_FLAGS: u32 = 1 | RENAME_EXCHANGE;
const RENAME_EXCHANGE: u32 = 2;

impl Server {
    pub(super) fn lookup(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let name = arguments.name()?;
        let folder = self.nodes.get(header.node)?;
        self.found(header.node, &folder, name, reply)
    }

    /// Tells the guest of the file of this name.
    fn found(&self, parent: u64, folder: &Node, name: Name, reply: &mut Reply) -> io::Result<()> {
        let (node, status) = folder.lookup(name)?;
        self.tell(parent, name, node, &status, reply).map(drop)
    }

    /// Tells the guest of a file, if the answer can reach it: what it does not know of it could not forget.
    pub(super) fn tell(
        &self,
        parent: u64,
        name: Name,
        node: Node,
        status: &Status,
        reply: &mut Reply,
    ) -> io::Result<Told> {
        if reply.room() < ENTRY {
            return Err(error(EINVAL));
        }
        let told = self.nodes.learn(parent, name, node, status)?;
        reply.entry_out(told.number, status, self.nodes.ino(status));
        Ok(told)
    }

    /// Tells the guest of what it has just made, having given it to whom it belongs.
    fn made(&self, header: &Header, folder: &Node, name: Name, reply: &mut Reply) -> io::Result<()> {
        let (node, status) = folder.lookup(name)?;
        let status = self.give(header, folder, &node, status);
        self.tell(header.node, name, node, &status, reply).map(drop)
    }

    /// Where popf is root's, a new file goes to the user in the guest who made it, and to their group unless the
    /// folder gives its own. Where root may not do that (in a container, say) it stays popf's.
    pub(super) fn give(&self, header: &Header, folder: &Node, node: &Node, status: Status) -> Status {
        let inherits = || folder.status().is_ok_and(|folder| folder.mode & S_ISGID != 0);
        let owner = (header.uid != status.uid).then_some(header.uid);
        let group = (header.gid != status.gid && !inherits()).then_some(header.gid);
        if !self.root_user || owner.is_none() && group.is_none() {
            return status;
        }
        let given = node.set_owner(owner, group).and_then(|()| {
            // A change of owner may have taken bits away.
            if status.mode & S_IFMT == S_IFREG {
                node.set_mode(status.mode)?;
            }
            node.status()
        });
        given.unwrap_or(status)
    }

    pub(super) fn make_folder(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (mode, _umask) = (arguments.u32()?, arguments.u32()?);
        let name = arguments.name()?;
        let folder = self.nodes.get(header.node)?;
        folder.make_folder(name, mode)?;
        self.made(header, &folder, name, reply)
    }

    pub(super) fn make_node(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let mode = arguments.u32()?;
        let [_rdev, _umask, _padding] = [arguments.u32()?, arguments.u32()?, arguments.u32()?];
        let name = arguments.name()?;
        // A device's node would be one of the host's, too, and the host's users might use it.
        if !matches!(mode & S_IFMT, S_IFREG | S_IFIFO | S_IFSOCK) {
            return Err(error(EPERM));
        }
        let folder = self.nodes.get(header.node)?;
        folder.make_node(name, mode)?;
        self.made(header, &folder, name, reply)
    }

    pub(super) fn make_link(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (name, target) = (arguments.name()?, arguments.string()?);
        let folder = self.nodes.get(header.node)?;
        folder.make_link(name, target)?;
        self.made(header, &folder, name, reply)
    }

    pub(super) fn add_name(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let node = self.nodes.get(arguments.u64()?)?;
        let name = arguments.name()?;
        let folder = self.nodes.get(header.node)?;
        folder.add_name(name, &node)?;
        self.found(header.node, &folder, name, reply)
    }

    pub(super) fn remove(&self, header: &Header, mut arguments: Arguments) -> io::Result<()> {
        self.nodes.get(header.node)?.remove(arguments.name()?)
    }

    pub(super) fn remove_folder(&self, header: &Header, mut arguments: Arguments) -> io::Result<()> {
        self.nodes.get(header.node)?.remove_folder(arguments.name()?)
    }

    pub(super) fn rename(
        &self,
        header: &Header,
        mut arguments: Arguments,
        with_flags: bool,
    ) -> io::Result<()> {
        let new_parent = arguments.u64()?;
        let flags = match with_flags {
            true => (arguments.u32()?, arguments.u32()?).0,
            false => 0,
        };
        if flags & !RENAME_FLAGS != 0 {
            return Err(error(EINVAL));
        }
        let (name, new_name) = (arguments.name()?, arguments.name()?);
        let (from, to) = (self.nodes.get(header.node)?, self.nodes.get(new_parent)?);
        from.rename(name, &to, new_name, flags)?;
        // For when the file is to be found again. Somebody may have renamed it once more; then it will not be.
        if let Ok((_, status)) = to.lookup(new_name) {
            self.nodes.rename(new_parent, new_name, &status);
        }
        if flags & RENAME_EXCHANGE != 0
            && let Ok((_, status)) = from.lookup(name)
        {
            self.nodes.rename(header.node, name, &status);
        }
        Ok(())
    }

    pub(super) fn read_link(&self, header: &Header, reply: &mut Reply) -> io::Result<()> {
        reply.bytes(&self.nodes.get(header.node)?.read_link()?);
        Ok(())
    }
}
