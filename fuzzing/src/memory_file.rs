//! A disk that holds a few files in memory and counts what is read of them. It forgets nothing and never fails; whoever
//! wants that takes the simulated one.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvorum_disk::{File, FileSystem, OpenMode};

#[derive(Clone, Default)]
pub struct MemoryFile(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Vec<u8>>,
    reads: u64,
    bytes_read: u64,
}

impl MemoryFile {
    /// With one file, `/db`.
    pub fn new(contents: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().files.insert(PathBuf::from("/db"), contents);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn contents(&self, path: &Path) -> Vec<u8> {
        self.state().files.get(path).cloned().unwrap_or_default()
    }

    pub fn length(&self, path: &Path) -> usize {
        self.state().files.get(path).map_or(0, Vec::len)
    }

    /// How many reads an action makes, and of how many bytes.
    pub fn counted(&self, action: impl FnOnce()) -> (u64, u64) {
        let counts = || {
            let state = self.state();
            (state.reads, state.bytes_read)
        };
        let before = counts();
        action();
        let after = counts();
        (after.0 - before.0, after.1 - before.1)
    }
}

impl FileSystem for MemoryFile {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Box<dyn File>> {
        let mut state = self.state();
        if mode == OpenMode::CreateEmpty {
            state.files.insert(path.to_owned(), Vec::new());
        }
        if !state.files.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(Box::new(OpenFile { disk: self.clone(), path: path.to_owned() }))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.state().files.contains_key(path))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        let names = |path: &PathBuf| Some(path.strip_prefix(directory).ok()?.to_str()?.to_owned());
        Ok(self.state().files.keys().filter_map(names).collect())
    }

    fn create_directories(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn rename(&self, source: &Path, target: &Path) -> Result<()> {
        let mut state = self.state();
        let contents = state.files.remove(source).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        state.files.insert(target.to_owned(), contents);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.state().files.remove(path).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        self.state().files.retain(|file, _| !file.starts_with(path));
        Ok(())
    }

    fn sync_directory(&self, _path: &Path) -> Result<()> {
        Ok(())
    }
}

struct OpenFile {
    disk: MemoryFile,
    path: PathBuf,
}

impl OpenFile {
    fn with<T>(&self, action: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        action(self.disk.state().files.entry(self.path.clone()).or_default())
    }
}

impl File for OpenFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.with(|contents| {
            let (begin, end) = (offset as usize, offset as usize + bytes.len());
            if contents.len() < end {
                contents.resize(end, 0);
            }
            contents[begin..end].copy_from_slice(bytes);
        });
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let length = self.with(|contents| {
            let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
            let length = buffer.len().min(contents.len() - begin);
            buffer[..length].copy_from_slice(&contents[begin..begin + length]);
            length
        });
        let mut state = self.disk.state();
        state.reads += 1;
        state.bytes_read += length as u64;
        Ok(length)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.with(|contents| contents.len() as u64))
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.with(|contents| contents.resize(length as usize, 0));
        Ok(())
    }

    fn sync_data(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    fn sync_all(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    fn try_lock(&self) -> Result<bool> {
        Ok(true)
    }
}
