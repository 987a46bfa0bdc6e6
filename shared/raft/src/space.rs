//! Room on the disk: how much is kept free, and whether there is some again.
use crate::Error;
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Who fills a disk does so over longer times than this.
const FRESH: Duration = Duration::from_millis(50);

/// What must fit before a store that ran out of room is opened again: sled grows by segments of half a megabyte.
const TRIAL: u64 = 2 << 20;

const MIB: u64 = 1 << 20;

/// How much of a file system is kept free of writes: bytes, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reserve {
    Bytes(u64),
    Percent(u8),
}

impl Default for Reserve {
    fn default() -> Reserve {
        Reserve::Bytes(64 * MIB)
    }
}

impl FromStr for Reserve {
    type Err = String;

    fn from_str(text: &str) -> Result<Reserve, String> {
        let odd = || format!("{text:?} is not a size such as 64MiB, 1GiB or 5%");
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..split].parse().map_err(|_| odd())?;
        let unit = match &text[split..] {
            "%" => {
                return u8::try_from(number)
                    .ok()
                    .filter(|part| *part <= 50)
                    .map(Reserve::Percent)
                    .ok_or_else(odd);
            }
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => MIB,
            "GiB" => 1 << 30,
            _ => return Err(odd()),
        };
        number.checked_mul(unit).map(Reserve::Bytes).ok_or_else(odd)
    }
}

impl TryFrom<String> for Reserve {
    type Error = String;

    fn try_from(text: String) -> Result<Reserve, String> {
        text.parse()
    }
}

impl From<Reserve> for String {
    fn from(reserve: Reserve) -> String {
        reserve.to_string()
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reserve::Bytes(bytes) if *bytes % MIB == 0 => write!(f, "{}MiB", bytes / MIB),
            Reserve::Bytes(bytes) => write!(f, "{bytes}"),
            Reserve::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The file system of a data directory at a moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free: u64,
    pub reserve: u64,
}

impl Room {
    pub fn is_enough(&self) -> bool {
        self.free >= self.reserve
    }
}

/// Looks after the room of one data directory. Calls cost a system call at most.
pub struct Space {
    dir: PathBuf,
    reserve: Reserve,
    seen: Mutex<Option<(Instant, Room)>>,
}

impl Space {
    pub fn new(dir: &Path, reserve: Reserve) -> Space {
        Space { dir: dir.to_owned(), reserve, seen: Mutex::default() }
    }

    pub fn room(&self) -> io::Result<Room> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, room)) = *seen
            && at.elapsed() < FRESH
        {
            return Ok(room);
        }
        let system = statvfs(&self.dir)?;
        let reserve = match self.reserve {
            Reserve::Bytes(bytes) => bytes,
            Reserve::Percent(percent) => system.f_blocks / 100 * u64::from(percent) * system.f_frsize,
        };
        let room = Room { free: system.f_bavail * system.f_frsize, reserve };
        *seen = Some((Instant::now(), room));
        Ok(room)
    }

    /// Refuses while there is less room than the reserve.
    pub fn check(&self) -> Result<(), Error> {
        match self.room() {
            Ok(room) if !room.is_enough() => {
                Err(Error::NoRoom { dir: self.dir.clone(), free: room.free, reserve: room.reserve })
            }
            // A file system that does not tell how full it is must show it by itself.
            _ => Ok(()),
        }
    }

    /// Whether a store that ran out of room can grow again. Tries it: quotas and limits show no other way. Blocks.
    pub fn has_room_again(&self) -> bool {
        if self.check().is_err() {
            return false;
        }
        let path = self.dir.join("room");
        let grown = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&vec![0xa5; TRIAL as usize])?;
            file.sync_data()?;
            // A limit for the size of files is met by the largest. This takes no room.
            let largest = fs::metadata(self.dir.join("db/db")).map_or(0, |file| file.len());
            file.set_len(largest + TRIAL)
        };
        let has_room = grown();
        // What cannot be removed now is written over by the next trial.
        let _ = fs::remove_file(&path);
        has_room.is_ok()
    }
}

/// A number of bytes for people.
pub(crate) fn for_people(bytes: &u64) -> String {
    format!("{:.1} MiB", *bytes as f64 / MIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed_alike() {
        for (text, reserve) in
            [("64MiB", Reserve::Bytes(64 * MIB)), ("5%", Reserve::Percent(5)), ("1000", Reserve::Bytes(1000))]
        {
            assert_eq!(text.parse(), Ok(reserve));
            assert_eq!(reserve.to_string(), text);
        }
        assert_eq!("1GiB".parse::<Reserve>().map(|reserve| reserve.to_string()), Ok("1024MiB".to_owned()));
        for odd in ["", "MiB", "5 %", "99%", "-1", "1TB", "99999999999999999999", "99999999999GiB"] {
            assert!(odd.parse::<Reserve>().expect_err("refused").contains("5%"), "{odd}");
        }
    }

    #[test]
    fn less_room_than_the_reserve_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Space::new(dir.path(), Reserve::Bytes(1)).check().is_ok());
        let refused = Space::new(dir.path(), Reserve::Bytes(1 << 62)).check().expect_err("refused");
        let text = refused.to_string();
        assert!(text.contains("MiB") && text.contains(&dir.path().display().to_string()), "{text}");
        let space = Space::new(dir.path(), Reserve::Percent(1));
        assert!(space.room().expect("a file system").reserve > 0);
        assert!(space.has_room_again());
        assert!(!dir.path().join("room").exists());
    }
}
