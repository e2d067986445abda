use proptest::prelude::*;

use super::*;

/// A TCP frame as a guest leaves it: the pseudo-header's sum where the sum belongs.
fn frame(kind: SegmentKind, tagged: bool, payload: usize, flags: u8) -> (Vec<u8>, Offload) {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if tagged {
        frame.extend([0x81, 0, 0, 7]);
    }
    let tcp_length = 32 + payload;
    match kind {
        SegmentKind::Tcp4 => {
            frame.extend(IPV4);
            frame.extend([0x45, 0]);
            frame.extend(((20 + tcp_length) as u16).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        SegmentKind::Tcp6 => {
            frame.extend(IPV6);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((tcp_length as u16).to_be_bytes());
            frame.extend([TCP, 64]);
            frame.extend([0xfd; 32]);
        }
    }
    let tcp = frame.len();
    frame.extend([0, 80, 1, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x80, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    frame.extend((0..payload).map(|at| at as u8));
    let addresses = if kind == SegmentKind::Tcp4 { tcp - 8..tcp } else { tcp - 32..tcp };
    let pseudo = fold(sum(&frame[addresses]) + u64::from(TCP) + tcp_length as u64);
    frame[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Missing { start: tcp as u16, offset: 16 };
    let segments = Segments { kind, size: 1000, header_len: 0, ecn: false };
    (frame, Offload { checksum, segments: Some(segments) })
}

/// Whether a receiver would find all sums of a TCP frame right.
fn is_sound(frame: &[u8], kind: SegmentKind) -> bool {
    let Headers { ip, tcp, .. } = Headers::find(frame, kind).unwrap();
    let (addresses, header) = match kind {
        SegmentKind::Tcp4 => (ip + 12..ip + 20, fold(sum(&frame[ip..tcp])) == 0xffff),
        SegmentKind::Tcp6 => (ip + 8..ip + 40, true),
    };
    let length = match kind {
        SegmentKind::Tcp4 => usize::from(u16::from_be_bytes([frame[ip + 2], frame[ip + 3]])),
        SegmentKind::Tcp6 => IPV6_HEADER + usize::from(u16::from_be_bytes([frame[ip + 4], frame[ip + 5]])),
    };
    let pseudo = sum(&frame[addresses]) + u64::from(TCP) + (frame.len() - tcp) as u64;
    header && length == frame.len() - ip && fold(pseudo + sum(&frame[tcp..])) == 0xffff
}

fn finished(frame: &[u8], offload: Offload, takes: Offloads) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    assert!(finish(frame, offload, takes, |frame, offload| {
        all.push((frame.to_vec(), offload));
        true
    }));
    all
}

#[test]
fn who_takes_it_gets_it_as_it_is() {
    let (frame, offload) = frame(SegmentKind::Tcp4, false, 3000, 0);
    assert_eq!(finished(&frame, offload, Offloads::ALL), [(frame.clone(), offload)]);
    let plain = Offload::default();
    assert_eq!(finished(&frame, plain, Offloads::NONE), [(frame.clone(), plain)]);
    let only6 = Offloads { tcp4: false, ..Offloads::ALL };
    assert_eq!(finished(&frame, offload, only6).len(), 3);
    let ecn = Segments { ecn: true, ..offload.segments.unwrap() };
    let ecn = Offload { segments: Some(ecn), ..offload };
    assert_eq!(finished(&frame, ecn, Offloads { ecn: false, ..Offloads::ALL }).len(), 3);
}

#[test]
fn a_missing_sum_is_put_in() {
    for kind in [SegmentKind::Tcp4, SegmentKind::Tcp6] {
        // An odd length, too.
        for payload in [1, 2, 3, 4, 777] {
            let (frame, offload) = frame(kind, false, payload, PSH);
            let offload = Offload { segments: None, ..offload };
            let all = finished(&frame, offload, Offloads::NONE);
            let [(whole, rest)] = all.as_slice() else { panic!("{} frames", all.len()) };
            let tcp = Headers::find(whole, kind).unwrap().tcp;
            // The IPv4 header's own sum was never left out; here it is not there.
            assert_eq!(fold(pseudo(whole, kind, tcp) + sum(&whole[tcp..])), 0xffff, "{kind:?}, {payload}");
            assert_eq!(*rest, Offload::default());
        }
    }
}

fn pseudo(frame: &[u8], kind: SegmentKind, tcp: usize) -> u64 {
    let addresses = if kind == SegmentKind::Tcp4 { tcp - 8..tcp } else { tcp - 32..tcp };
    sum(&frame[addresses]) + u64::from(TCP) + (frame.len() - tcp) as u64
}

#[test]
fn segments_make_up_the_whole() {
    for kind in [SegmentKind::Tcp4, SegmentKind::Tcp6] {
        for tagged in [false, true] {
            let (frame, offload) = frame(kind, tagged, 2500, FIN | PSH | CWR);
            let all = finished(&frame, offload, Offloads { tcp4: false, tcp6: false, ..Offloads::ALL });
            assert_eq!(all.len(), 3);
            let mut payload = Vec::new();
            for (number, (segment, rest)) in all.iter().enumerate() {
                assert_eq!(*rest, Offload::default());
                assert!(is_sound(segment, kind), "{kind:?} segment {number}");
                let Headers { ip, tcp, payload: at } = Headers::find(segment, kind).unwrap();
                let sequence = u32::from_be_bytes(std::array::from_fn(|at| segment[tcp + 4 + at]));
                assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(1000 * number as u32));
                let flags = [CWR, 0, FIN | PSH][number];
                assert_eq!(segment[tcp + 13], flags, "segment {number}");
                if kind == SegmentKind::Tcp4 {
                    let identification = u16::from_be_bytes([segment[ip + 4], segment[ip + 5]]);
                    assert_eq!(identification, 0xffff_u16.wrapping_add(number as u16));
                }
                payload.extend_from_slice(&segment[at..]);
            }
            assert!(payload.iter().enumerate().all(|(at, byte)| *byte == at as u8));
            assert_eq!(payload.len(), 2500);
        }
    }
}

#[test]
fn nobody_waits_for_the_rest() {
    let (frame, offload) = frame(SegmentKind::Tcp4, false, 5000, 0);
    let mut count = 0;
    let all = finish(&frame, offload, Offloads::NONE, |_, _| {
        count += 1;
        count < 3
    });
    assert_eq!((all, count), (false, 3));
}

#[test]
fn nonsense_gives_nothing() {
    let (good, offload) = frame(SegmentKind::Tcp4, false, 2500, 0);
    let segments = offload.segments.unwrap();
    for length in 0..66 {
        assert_eq!(finished(&good[..length], offload, Offloads::NONE), [], "{length} bytes");
    }
    let small = Offload { segments: Some(Segments { size: 31, ..segments }), ..offload };
    let other = Offload { segments: Some(Segments { kind: SegmentKind::Tcp6, ..segments }), ..offload };
    for wrong in [small, other] {
        assert_eq!(finished(&good, wrong, Offloads::NONE), []);
    }
    // A header length that leaves no room for a header, and one beyond the end.
    for (at, value) in [(14, 0x41), (14 + 20 + 12, 0x10), (14 + 9, 17)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(finished(&bad, offload, Offloads::NONE), []);
    }
    for (start, offset) in [(0xffff, 0), (0, 0xffff), (good.len() as u16 - 1, 0), (40, u16::MAX - 39)] {
        let wild = Offload { checksum: Checksum::Missing { start, offset }, segments: None };
        assert_eq!(finished(&good, wild, Offloads::NONE), [], "{start}+{offset}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes anywhere in a frame, and any words about it: what comes out are frames, and not many times what went
    /// in.
    #[test]
    fn nothing_grows_without_bound(
        six in any::<bool>(),
        payload in 1..3000_usize,
        changes in prop::collection::vec((0..120_usize, any::<u8>()), 0..4),
        size in any::<u16>(),
        (start, offset) in (0..4000_u16, 0..4000_u16),
        cut in any::<bool>(),
    ) {
        let kind = if six { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        let (mut frame, _) = frame(kind, false, payload, 0);
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let segments = cut.then_some(Segments { kind, size, header_len: size, ecn: false });
        let offload = Offload { checksum: Checksum::Missing { start, offset }, segments };
        let all = finished(&frame, offload, Offloads::NONE);
        prop_assert!(all.iter().all(|(part, offload)| part.len() <= frame.len() && *offload == Offload::default()));
        // At worst 32 bytes behind headers of at most 14 + 60 + 60.
        prop_assert!(all.iter().map(|(part, _)| part.len()).sum::<usize>() <= frame.len() * 6);
    }
}
