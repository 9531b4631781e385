//! Packets between the engine's processes: one message with descriptors beside it; and files in
//! memory that nobody can change, for what is longer than a packet.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest packet in bytes. What may be longer travels in a sealed file beside it.
pub(super) const PACKET_MAX: usize = 4096;

/// Most descriptors beside one packet.
pub(super) const FDS_MAX: usize = 16;

/// Two ends of a packet socket.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one packet.
///
/// # Errors
/// `EPIPE` when nobody is at the other end; `EAGAIN` when it does not keep up; `EMSGSIZE` for
/// what is longer than [`PACKET_MAX`].
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > PACKET_MAX || files.len() > FDS_MAX {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    send_beside(&socket, &text, files)
}

/// Sends bytes with descriptors beside them, in one call.
///
/// # Errors
/// As sending; `EMSGSIZE` for more than [`FDS_MAX`] descriptors.
pub(super) fn send_beside(
    socket: impl AsFd,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    let parts = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &parts, &mut beside, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives bytes and the descriptors beside them, in one call.
///
/// # Errors
/// As receiving; `EAGAIN` when there is nothing and the socket does not block.
pub(super) fn receive_beside(
    socket: impl AsFd,
    bytes: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let message = past_reset(|| {
        let mut parts = [IoSliceMut::new(bytes)];
        rustix::net::recvmsg(&socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    for part in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            files.extend(received);
        }
    }
    Ok(message.bytes)
}

/// Reads again after an interruption, and after the kernel has said, once, that the other end was
/// closed before it had read all that was sent to it: what it had said itself, and that it is
/// closed, come after that.
fn past_reset<T>(mut read: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match read() {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            done => return done,
        }
    }
}

/// Receives one packet; `None` when the other end is closed.
///
/// # Errors
/// `EAGAIN` when there is none and the socket does not block; `InvalidData` for what is not a
/// message of this kind.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; PACKET_MAX];
    let message = past_reset(|| {
        let mut parts = [IoSliceMut::new(&mut text)];
        rustix::net::recvmsg(&socket, &mut parts, &mut beside, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let files: Vec<OwnedFd> = beside
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let value = serde_json::from_slice(&text[..message.bytes])?;
    Ok(Some((value, files)))
}

/// A file in memory that nobody can change any more.
pub(super) fn sealed(name: &str, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(file);
    for part in parts {
        file.write_all(part)?;
    }
    file.rewind()?;
    seal(&file)?;
    Ok(file.into())
}

/// Lets nobody change a file in memory any more.
///
/// # Errors
/// What the kernel says. That it is busy, which it may be for as long as another processor holds
/// pages that were written a moment ago, counts only if it lasts.
pub(super) fn seal(file: &File) -> io::Result<()> {
    const ATTEMPTS: u32 = 20;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    for _ in 1..ATTEMPTS {
        match rustix::fs::fcntl_add_seals(file, seals) {
            Err(rustix::io::Errno::BUSY) => {}
            sealed => return Ok(sealed?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

/// A value in a sealed file.
pub(super) fn sealed_value(value: &impl Serialize) -> io::Result<OwnedFd> {
    sealed("order", &[&serde_json::to_vec(value)?])
}

/// Reads back what [`sealed_value`] wrote.
pub(super) fn read_sealed<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    let mut text = Vec::new();
    File::from(file).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_with_orders_unread_is_heard_to_the_end() {
        let (ours, theirs) = pair().unwrap();
        send(&theirs, &1, &[]).unwrap();
        send(&ours, &2, &[]).unwrap();
        drop(theirs);
        let hear = || receive::<u8>(&ours, RecvFlags::DONTWAIT).unwrap().map(|(said, _)| said);
        assert_eq!([hear(), hear(), hear()], [Some(1), None, None]);
    }
}
