//! A template in one file: a tar archive of regular files, in one order, with one spelling.
//!
//! What is read must be, byte for byte, what [`write()`] would have written: the first entry is the
//! recipe, and everything after it is what the recipe says. So an archive cannot hold a link, a
//! device, a path that leaves its folder, a file more or one that grows when it is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::recipe::{HOME, Part, RECIPE, Recipe};

/// Bytes of one block; entries begin at multiples of it.
const BLOCK: usize = 512;

/// Blocks of zeros at the end.
const END: usize = 2 * BLOCK;

/// Bytes of a recipe. 32 packages and 64 variables are a tenth of it.
const RECIPE_MAX: u64 = 1024 * 1024;

/// Bytes of one file, because a header has eleven octal digits for it.
const PART_MAX: u64 = 0o777_7777_7777;

/// An archive is not one of ours, or is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something in it differs from what would have been written.
    #[error("{0}")]
    Wrong(String),
    /// A file could not be read or written.
    #[error("it cannot be read or kept")]
    Io(#[from] io::Error),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes in all.
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Writes the archive of a recipe whose parts lie in `folder`. The same parts give the same bytes.
///
/// # Errors
/// What reading and writing say; [`ArchiveError::Wrong`] if a part is not what the recipe says.
pub fn write(recipe: &Recipe, folder: &Path, to: File) -> Result<Written, ArchiveError> {
    let mut to = Hashing { inner: io::BufWriter::new(to), hash: Sha256::new(), bytes: 0 };
    let text = recipe.text();
    entry(&mut to, RECIPE, text.len() as u64, &mut text.as_slice())?;
    for part in recipe.parts() {
        let mut from = File::open(folder.join(&part.path))?;
        let (size, sha256) = entry(&mut to, &part.path, part.size, &mut from)?;
        if size != part.size || sha256 != part.sha256 {
            return Err(ArchiveError::Wrong(format!("{} changed meanwhile", part.path)));
        }
    }
    to.write_all(&[0; END])?;
    let Hashing { inner, hash, bytes } = to;
    inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(Written { size: bytes, sha256: hexadecimal(hash) })
}

/// Reads an archive into the empty folder `into`, which then holds the recipe and its parts.
///
/// # Errors
/// [`ArchiveError`]; what is in the folder is then not to be used.
pub fn read(from: &mut impl Read, into: &Path) -> Result<Recipe, ArchiveError> {
    let mut head = [0; BLOCK];
    exactly(from, &mut head, "it ends before it begins")?;
    let size = size_of(&head).filter(|size| *size <= RECIPE_MAX);
    let size = size.ok_or_else(|| wrong("it does not begin with a recipe"))?;
    if header(RECIPE, size)? != head {
        return Err(wrong("it does not begin with a recipe"));
    }
    let mut text = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    exactly(from, &mut text, "its recipe is cut off")?;
    padding(from, size)?;
    let recipe = Recipe::read(&text).map_err(ArchiveError::Wrong)?;
    std::fs::create_dir_all(into.join(super::recipe::WHEELS))?;
    std::fs::write(into.join(RECIPE), &text)?;
    for part in recipe.parts() {
        exactly(from, &mut head, "it is cut off between two files")?;
        if header(&part.path, part.size)? != head {
            return Err(wrong(format!("what follows is not {}, as its recipe says", part.path)));
        }
        keep(from, &part, &into.join(&part.path))?;
        padding(from, part.size)?;
    }
    let mut end = [0; END];
    exactly(from, &mut end, "its end is missing")?;
    let mut more = [0; 1];
    if end != [0; END] || from.read(&mut more)? != 0 {
        return Err(wrong("it goes on where it should end"));
    }
    Ok(recipe)
}

/// Keeps one file, whose size and digest are known.
fn keep(from: &mut impl Read, part: &Part, path: &Path) -> Result<(), ArchiveError> {
    let file = File::options().write(true).create_new(true).open(path)?;
    let mut file = Hashing { inner: io::BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
    let copied = io::copy(&mut from.take(part.size), &mut file)?;
    file.flush()?;
    if copied != part.size {
        return Err(wrong(format!("{} is cut off", part.path)));
    }
    if hexadecimal(file.hash) != part.sha256 {
        return Err(wrong(format!("{} is not the file its recipe names", part.path)));
    }
    Ok(())
}

fn entry(
    to: &mut Hashing<impl Write>,
    name: &str,
    size: u64,
    from: &mut impl Read,
) -> Result<(u64, String), ArchiveError> {
    to.write_all(&header(name, size)?)?;
    let mut hash = Sha256::new();
    let mut rest = from.take(size);
    let mut piece = vec![0; 64 * 1024];
    let mut copied = 0;
    loop {
        let read = rest.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        copied += read as u64;
    }
    to.write_all(&[0; BLOCK][..padding_of(size)])?;
    Ok((copied, hexadecimal(hash)))
}

/// The one header that a file of this name and size has: mode 0644, no owner, no time.
fn header(name: &str, size: u64) -> Result<[u8; BLOCK], ArchiveError> {
    let (prefix, name) = name.rsplit_once('/').unwrap_or(("", name));
    if name.len() > 100 || prefix.len() > 155 || size > PART_MAX {
        return Err(wrong(format!("{name} has too long a name or too many bytes")));
    }
    let mut head = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(345, prefix);
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(head)
}

fn size_of(head: &[u8; BLOCK]) -> Option<u64> {
    let digits = std::str::from_utf8(&head[124..135]).ok()?;
    u64::from_str_radix(digits, 8).ok()
}

fn padding_of(size: u64) -> usize {
    let last = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if last == 0 { 0 } else { BLOCK - last }
}

fn padding(from: &mut impl Read, size: u64) -> Result<(), ArchiveError> {
    let mut rest = [0; BLOCK];
    let rest = &mut rest[..padding_of(size)];
    exactly(from, rest, "it is cut off after a file")?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(wrong("there is something between two files"));
    }
    Ok(())
}

fn exactly(from: &mut impl Read, into: &mut [u8], otherwise: &str) -> Result<(), ArchiveError> {
    match from.read_exact(into) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(wrong(otherwise)),
        read => Ok(read?),
    }
}

fn wrong(what: impl Into<String>) -> ArchiveError {
    ArchiveError::Wrong(what.into())
}

/// The digest of what was hashed.
pub(crate) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Size and digest of a file.
///
/// # Errors
/// What reading says.
pub fn fingerprint(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Hashing { inner: io::sink(), hash: Sha256::new(), bytes: 0 };
    io::copy(&mut file, &mut hash)?;
    Ok((hash.bytes, hexadecimal(hash.hash)))
}

/// Passes on what is written, and knows its digest.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The path of the home among the parts.
pub fn home_of(folder: &Path) -> std::path::PathBuf {
    folder.join(HOME)
}

#[cfg(test)]
#[path = "archive/tests.rs"]
mod tests;
