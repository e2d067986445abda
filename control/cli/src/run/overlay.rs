//! A VM's own layer over its image's disk, which is never written.
//!
//! The layer holds what the VM has written and refers to the image for all else. Over a disk that has changed it would
//! be neither the old one nor the new one, so what it was made over is written down beside it. A newer popf may put the
//! same disk elsewhere, with another initramfs; so the layer refers to it by a link, which is set anew at each run.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};

use backends::disk::{Format, backing, create_overlay};
use serde::{Deserialize, Serialize};
use vms::Claim;

use crate::disk::disk_error;
use crate::error::CliError;
use crate::exit::Failure;

/// The link to the image's disk.
const LINK: &str = "disk.base";
/// The file that says what disk that was when the layer was made.
const BASE: &str = "disk.json";

/// An image's disk, as told apart from another by what every change changes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Base {
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Base {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    }
}

/// The layer of the VM over this disk: the one that was kept, or a new one.
pub fn over(disk: &Path, claim: &mut Claim) -> Result<PathBuf, CliError> {
    let found = Base::of(disk).map_err(|error| {
        let message = format!("cannot read the image's disk {}", disk.display());
        CliError::new(Failure::NoInput, message).because(error)
    })?;
    let (layer, link) = (claim.state()?.join(vms::DISK), claim.settings()?.join(LINK));
    let kept = claim.read(BASE)?.filter(|_| layer.exists());
    if let Some(text) = &kept
        && serde_json::from_str::<Base>(text).ok().as_ref() != Some(&found)
    {
        return Err(changed(claim));
    }
    renew(&link, || symlink(disk, &link))?;
    if kept.is_some() && backing(&layer).map_err(disk_error)? != Some((link.clone(), Format::Raw)) {
        return Err(astray(claim));
    }
    if kept.is_none() {
        // One without a word about its base was left half-made, before anything could be written to it.
        renew(&layer, || Ok(()))?;
        create_overlay(&layer, &link, Format::Raw).map_err(disk_error)?;
        let text = serde_json::to_string(&found).expect("numbers");
        claim.write(BASE, text.as_bytes())?;
    }
    Ok(layer)
}

/// Removes a file if it is there, and makes it anew.
fn renew(path: &Path, make: impl FnOnce() -> io::Result<()>) -> Result<(), CliError> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed.and_then(|()| make()).map_err(|error| {
        CliError::new(Failure::Host, format!("cannot replace {}", path.display())).because(error)
    })
}

fn changed(claim: &Claim) -> CliError {
    let name = claim.name();
    let message = format!(
        "the image has been built anew since {name} was made, and the disk of {name} fits the old one only"
    );
    CliError::new(Failure::Data, message).hint(format!(
        "`popf rm {name}` gives up what it has written; the next run begins with the new image"
    ))
}

/// The guest's process may write the layer. Were it to stand on another file of the user's, the guest could read that.
fn astray(claim: &Claim) -> CliError {
    let name = claim.name();
    let message = format!("the disk of {name} has come to stand on another file than its image");
    CliError::new(Failure::Data, message).hint(format!(
        "only a guest that broke out of its machine does that: `popf rm {name}` removes it, with what it has written"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::disk::{Access, OpenOptions, open};

    #[test]
    fn a_layer_is_kept_for_as_long_as_its_image_is_the_same() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let registry = vms::Registry::at(path("run"), path("vms"));
        let mut claim = registry.claim(&"web".parse().unwrap()).unwrap();
        let base = path("base");
        fs::write(&base, [7; 4096]).unwrap();

        let layer = over(&base, &mut claim).unwrap();
        assert_eq!(layer, path("vms/web/disk.qcow2"));
        let options = OpenOptions { format: None, access: Access::ReadWrite };
        let read = || {
            let disk = open(&layer, &options).unwrap();
            let mut sector = [0; 512];
            disk.read(512, &mut sector).unwrap();
            sector
        };
        assert_eq!(read(), [7; 512]);
        open(&layer, &options).unwrap().write(512, &[8; 512]).unwrap();
        assert_eq!(over(&base, &mut claim).unwrap(), layer);
        assert_eq!((read(), fs::read(&base).unwrap()), ([8; 512], vec![7; 4096]));

        // It may lie elsewhere.
        fs::rename(&base, path("moved")).unwrap();
        assert_eq!(over(&path("moved"), &mut claim).unwrap(), layer);
        assert_eq!(read(), [8; 512]);
        let base = path("moved");

        // Another file of the host's is no base.
        let secret = path("secret");
        fs::write(&secret, [1; 4096]).unwrap();
        let other = path("other.qcow2");
        create_overlay(&other, &secret, Format::Raw).unwrap();
        let own = fs::read(&layer).unwrap();
        fs::copy(&other, &layer).unwrap();
        let error = over(&base, &mut claim).unwrap_err();
        assert_eq!(error.status(), Failure::Data as u8);
        assert!(error.report().contains("another file"), "{}", error.report());
        fs::write(&layer, own).unwrap();
        over(&base, &mut claim).unwrap();

        // It may not change, not even if it is as long as before.
        fs::write(&base, [9; 4096]).unwrap();
        // Later than before, however coarse the host's clock is.
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        fs::File::options().append(true).open(&base).unwrap().set_modified(later).unwrap();
        let error = over(&base, &mut claim).unwrap_err();
        assert_eq!(error.status(), Failure::Data as u8);
        let report = error.report();
        assert!(report.contains("the disk of web") && report.contains("popf rm web"), "{report}");
        assert_eq!(over(&path("none"), &mut claim).unwrap_err().status(), Failure::NoInput as u8);
    }

    #[test]
    fn a_half_made_layer_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let registry = vms::Registry::at(root.path().join("run"), root.path().join("vms"));
        let mut claim = registry.claim_generated("debian").unwrap();
        let base = root.path().join("base");
        fs::write(&base, [7; 4096]).unwrap();
        fs::write(claim.state().unwrap().join(vms::DISK), "QFI").unwrap();
        let layer = over(&base, &mut claim).unwrap();
        assert!(fs::metadata(layer).unwrap().len() > 3);
    }
}
