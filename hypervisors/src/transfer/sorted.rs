//! Records in order, however many: what does not fit a fixed amount of memory goes to unnamed files and is merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Bytes of records kept in memory by one sorter.
const MEMORY: usize = 8 << 20;

/// Takes records in any order.
pub(super) struct Sorter {
    directory: PathBuf,
    memory: usize,
    bytes: Vec<u8>,
    records: Vec<(usize, usize)>,
    runs: Vec<File>,
}

impl Sorter {
    /// Spills into this directory, which must be there.
    pub(super) fn new(directory: &Path) -> Self {
        Self::with(directory, MEMORY)
    }
    fn with(directory: &Path, memory: usize) -> Self {
        Self { directory: directory.to_owned(), memory, bytes: Vec::new(), records: Vec::new(), runs: Vec::new() }
    }

    pub(super) fn push(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        // What a record costs to keep is counted, too.
        if !self.records.is_empty() && self.bytes.len() + length + 16 * self.records.len() > self.memory {
            self.spill()?;
        }
        let begin = self.bytes.len();
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.records.push((begin, self.bytes.len()));
        Ok(())
    }

    fn order(&mut self) {
        let bytes = &self.bytes;
        self.records.sort_unstable_by(|one, other| bytes[one.0..one.1].cmp(&bytes[other.0..other.1]));
    }

    fn spill(&mut self) -> io::Result<()> {
        self.order();
        let mut run = BufWriter::new(unnamed(&self.directory, self.runs.len())?);
        for (begin, end) in self.records.drain(..) {
            let length = u32::try_from(end - begin).map_err(io::Error::other)?;
            run.write_all(&length.to_le_bytes())?;
            run.write_all(&self.bytes[begin..end])?;
        }
        self.bytes.clear();
        let mut file = run.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.runs.push(file);
        Ok(())
    }

    /// All of them, in order.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        self.order();
        let mut sorted = Sorted {
            runs: self.runs.into_iter().map(BufReader::new).collect(),
            heads: BinaryHeap::new(),
            bytes: self.bytes,
            last: self.records.into_iter(),
        };
        for run in 0..=sorted.runs.len() {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }
}

/// Records in order.
pub(super) struct Sorted {
    runs: Vec<BufReader<File>>,
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    bytes: Vec<u8>,
    last: std::vec::IntoIter<(usize, usize)>,
}

impl Sorted {
    /// Reads the next record of a run; the last run is what stayed in memory.
    fn refill(&mut self, run: usize) -> io::Result<()> {
        let record = match self.runs.get_mut(run) {
            None => self.last.next().map(|(begin, end)| self.bytes[begin..end].to_owned()),
            Some(file) => {
                let mut length = [0; 4];
                match file.read_exact(&mut length) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                    Err(error) => return Err(error),
                    Ok(()) => {
                        let mut record =
                            vec![0; usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?];
                        file.read_exact(&mut record)?;
                        Some(record)
                    }
                }
            }
        };
        self.heads.extend(record.map(|record| Reverse((record, run))));
        Ok(())
    }
}

impl Iterator for Sorted {
    type Item = io::Result<Vec<u8>>;
    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((record, run)) = self.heads.pop()?;
        Some(self.refill(run).map(|()| record))
    }
}

/// A file that is gone with its descriptor.
fn unnamed(directory: &Path, number: usize) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = directory.join(format!(".sort-{}-{count}-{number}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_memory_or_in_many_files_the_order_is_the_same(records in proptest::collection::vec("[a-c/]{0,6}", 0..60), memory in 1usize..200) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::with(directory.path(), memory);
            for record in &records {
                let (first, second) = record.as_bytes().split_at(record.len() / 2);
                sorter.push(&[first, second]).unwrap();
            }
            let sorted: Vec<Vec<u8>> = sorter.finish().unwrap().map(Result::unwrap).collect();
            let mut expected: Vec<Vec<u8>> = records.into_iter().map(String::into_bytes).collect();
            expected.sort();
            prop_assert_eq!(sorted, expected);
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
