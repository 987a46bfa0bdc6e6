//! What zones have told, on disk: a file for each replica that tells, in the words of the feed itself.
//!
//! ```text
//! <zone>.<replica>.feed:  head line | frame | frame | ...
//! frame:                  length, CRC-32 of the body, body
//! body:                   heard at (ms), sequence (0: not all is here), instance, an `Inventory` of the link
//! ```
//!
//! A file is added to, and written anew beside itself when most of it is past. Nothing is synced: what a power cut takes
//! the zone tells again, and the disk is the log's. The first frame that does not check ends a file; what stands before it
//! is how things were then.
use super::{
    proxy::{Documents, Name},
    stock::ReplicaId,
};
use prost::Message as _;
use proto::link::{Inventory, ProxyEntry, ProxyName};
use shared_model::Timestamp;
use shared_node::file;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

const HEAD: &[u8] = b"weft inventory 1\n";
const SUFFIX: &str = ".feed";
/// What a frame holds, in bytes, unless one proxy has more.
const FRAME: usize = 1 << 20;
/// No frame is larger, with a proxy of any size that is taken.
const FRAME_MAX: u32 = 4 << 20;
/// What an entry weighs beside its documents, at most, in bytes.
const NAMES: usize = 400;

/// What one replica has told since it was written last.
pub struct Batch {
    pub zone: Arc<str>,
    pub replica: ReplicaId,
    pub head: Head,
    /// Everything, in place of what is there.
    pub all: bool,
    pub changed: Vec<(Name, Arc<Documents>)>,
    pub gone: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub seen: Timestamp,
    pub instance: String,
    /// Up to where all is here; 0 when it is not.
    pub sequence: u64,
}

/// The files of all replicas.
pub struct Table {
    dir: PathBuf,
    files: BTreeMap<(Arc<str>, ReplicaId), Feed>,
}

struct Feed {
    file: File,
    size: u64,
}

impl Table {
    /// Reads what is there, frame by frame. What is damaged is left out and said.
    pub fn open(dir: &Path, mut take: impl FnMut(&str, ReplicaId, Head, Inventory)) -> io::Result<Table> {
        file::private_dir(dir).map_err(io::Error::other)?;
        let mut table = Table { dir: dir.to_owned(), files: BTreeMap::new() };
        for found in fs::read_dir(dir)? {
            let path = found?.path();
            let Some((zone, replica)) = owner(&path) else {
                // What was being written when the process ended.
                drop(fs::remove_file(&path));
                continue;
            };
            match Feed::read(&path, |head, told| take(&zone, replica, head, told)) {
                Ok(feed) => drop(table.files.insert((zone.into(), replica), feed)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "an inventory cannot be read: its zone tells it again");
                    drop(fs::remove_file(&path));
                }
            }
        }
        Ok(table)
    }

    /// What a replica's file has, in bytes; none when there is none.
    pub fn size(&self, zone: &Arc<str>, replica: ReplicaId) -> Option<u64> {
        self.files.get(&(zone.clone(), replica)).map(|feed| feed.size)
    }

    /// After an error the file says less than it should: the next batch must hold everything.
    pub fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let key = (batch.zone.clone(), batch.replica);
        let known = self.files.remove(&key).filter(|_| !batch.all);
        let feed = match known {
            Some(mut feed) => {
                feed.append(batch)?;
                feed
            }
            None => {
                let path = self.dir.join(format!("{}.{:016x}{SUFFIX}", batch.zone, batch.replica));
                let beside = path.with_extension("new");
                let mut file = OpenOptions::new();
                let file = file.create(true).truncate(true).read(true).write(true).open(&beside)?;
                let mut feed = Feed { file, size: 0 };
                feed.file.write_all(HEAD)?;
                feed.size = HEAD.len() as u64;
                feed.append(batch)?;
                fs::rename(&beside, &path)?;
                feed
            }
        };
        self.files.insert(key, feed);
        Ok(())
    }

    /// Files of replicas that are not known any more go.
    pub fn retain(&mut self, known: impl Fn(&str, ReplicaId) -> bool) {
        let dir = &self.dir;
        self.files.retain(|(zone, replica), _| {
            let keep = known(zone, *replica);
            if !keep {
                // One that stays is found again at the next start, and goes with its zone.
                drop(fs::remove_file(dir.join(format!("{zone}.{replica:016x}{SUFFIX}"))));
            }
            keep
        });
    }
}

impl Feed {
    fn read(path: &Path, mut take: impl FnMut(Head, Inventory)) -> io::Result<Feed> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 16, &file);
        let mut head = [0; HEAD.len()];
        reader.read_exact(&mut head)?;
        if head != HEAD {
            return Err(io::Error::other("it does not begin as an inventory"));
        }
        let mut size = HEAD.len() as u64;
        while let Some((read, head, told)) = frame(&mut reader, len - size) {
            size += read;
            take(head, told);
        }
        if size < len {
            tracing::warn!(file = %path.display(), good = size, of = len, "the end of an inventory is damaged");
            file.set_len(size)?;
        }
        file.seek(SeekFrom::Start(size))?;
        Ok(Feed { file, size })
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, &self.file);
        let mut size = 0;
        let mut frame = Inventory::default();
        let mut weight = 0;
        let mut write = |frame: &mut Inventory, sequence: u64| {
            let written = put(&mut out, &Head { sequence, ..batch.head.clone() }, frame);
            *frame = Inventory::default();
            written.map(|written| size += written)
        };
        for (mesh, name) in &batch.gone {
            frame.removed.push(ProxyName { mesh: mesh.clone(), name: name.clone() });
            weight += NAMES;
            if weight > FRAME {
                write(&mut frame, 0)?;
                weight = 0;
            }
        }
        for ((mesh, name), documents) in &batch.changed {
            frame.upserts.push(ProxyEntry {
                mesh: mesh.clone(),
                name: name.clone(),
                dataplane: documents.dataplane.to_vec().into(),
                insight: documents.insight.to_vec().into(),
            });
            weight += NAMES + documents.size();
            if weight > FRAME {
                write(&mut frame, 0)?;
                weight = 0;
            }
        }
        write(&mut frame, batch.head.sequence)?;
        out.flush()?;
        drop(out);
        self.size += size;
        Ok(())
    }
}

/// The zone and the replica whose file this is.
fn owner(path: &Path) -> Option<(String, ReplicaId)> {
    let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let (zone, replica) = name.rsplit_once('.')?;
    Some((zone.to_owned(), u64::from_str_radix(replica, 16).ok()?))
}

fn put(out: &mut impl Write, head: &Head, told: &Inventory) -> io::Result<u64> {
    let mut body = Vec::with_capacity(told.encoded_len() + head.instance.len() + 24);
    body.extend(head.seen.timestamp_millis().to_le_bytes());
    body.extend(head.sequence.to_le_bytes());
    body.extend((head.instance.len() as u64).to_le_bytes());
    body.extend(head.instance.as_bytes());
    told.encode(&mut body).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32fast::hash(&body).to_le_bytes())?;
    out.write_all(&body)?;
    Ok(8 + u64::from(length))
}

/// The next frame; none where the good ones end.
fn frame(reader: &mut impl Read, left: u64) -> Option<(u64, Head, Inventory)> {
    let mut word = || {
        let mut word = [0; 4];
        reader.read_exact(&mut word).ok().map(|()| u32::from_le_bytes(word))
    };
    let (length, sum) = (word()?, word()?);
    if length > FRAME_MAX || u64::from(length) + 8 > left {
        return None;
    }
    let mut body = vec![0; length as usize];
    reader.read_exact(&mut body).ok()?;
    if crc32fast::hash(&body) != sum {
        return None;
    }
    let number = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let named = 24 + usize::try_from(number(16)?).ok()?;
    let head = Head {
        seen: Timestamp::from_timestamp_millis(i64::from_le_bytes(number(0)?.to_le_bytes()))?,
        sequence: number(8)?,
        instance: std::str::from_utf8(body.get(24..named)?).ok()?.to_owned(),
    };
    let told = Inventory::decode(&body[named..]).ok()?;
    Some((8 + u64::from(length), head, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(names: &[&str], gone: &[&str], sequence: u64) -> Batch {
        let name = |name: &&str| ("default".to_owned(), (*name).to_owned());
        let documents =
            |text: &str| Arc::new(Documents { dataplane: text.as_bytes().into(), insight: Box::default() });
        let seen = Timestamp::from_timestamp_millis(1_800_000_000_000).expect("a time");
        Batch {
            zone: "east".into(),
            replica: 7,
            head: Head { seen, instance: "east-1".into(), sequence },
            all: false,
            changed: names.iter().map(|n| (name(n), documents(&n.repeat(1000)))).collect(),
            gone: gone.iter().map(name).collect(),
        }
    }

    /// What a start finds: the names, and how far they were told.
    fn read(dir: &Path) -> (Table, Vec<String>, Option<Head>) {
        let (mut names, mut last) = (Vec::new(), None);
        let table = Table::open(dir, |zone, replica, head, told| {
            assert_eq!((zone, replica), ("east", 7));
            names.retain(|name| told.removed.iter().all(|gone| gone.name != *name));
            names.extend(told.upserts.into_iter().map(|entry| entry.name));
            last = Some(head);
        });
        (table.expect("a directory"), names, last)
    }

    #[test]
    fn what_was_told_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut table, names, last) = read(dir.path());
        assert_eq!((names, last), (vec![], None));
        table.write(&batch(&["a", "b"], &[], 3)).expect("written");
        table.write(&batch(&["c"], &["a"], 4)).expect("written");
        let (mut table, names, last) = read(dir.path());
        assert_eq!((names, last), (vec!["b".to_owned(), "c".to_owned()], Some(batch(&[], &[], 4).head)));
        let before = table.size(&"east".into(), 7).expect("a file");
        table.write(&Batch { all: true, ..batch(&["c"], &[], 5) }).expect("written");
        assert!(table.size(&"east".into(), 7).expect("a file") < before);
        let (mut table, names, _) = read(dir.path());
        assert_eq!(names, ["c"]);
        table.retain(|_, _| false);
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn damage_ends_a_file_and_what_stands_before_it_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut table, ..) = read(dir.path());
        table.write(&batch(&["a", "b"], &[], 3)).expect("written");
        let first = usize::try_from(table.size(&"east".into(), 7).expect("a file")).expect("small");
        table.write(&batch(&["c"], &[], 4)).expect("written");
        let path = dir.path().join(format!("east.{:016x}.feed", 7));
        let good = fs::read(&path).expect("a file");
        for cut in [good.len() - 1, first + 5] {
            fs::write(&path, &good[..cut]).expect("written");
            let (mut table, names, last) = read(dir.path());
            assert_eq!((names.len(), last.map(|head| head.sequence)), (2, Some(3)));
            // What follows stands behind the good part.
            table.write(&batch(&["d"], &[], 5)).expect("written");
            assert_eq!(read(dir.path()).1, ["a", "b", "d"]);
        }
        let mut flipped = good.clone();
        flipped[first + 500] ^= 1;
        fs::write(&path, &flipped).expect("written");
        assert_eq!(read(dir.path()).1, ["a", "b"]);
        flipped[3] ^= 1;
        fs::write(&path, &flipped).expect("written");
        assert_eq!(read(dir.path()).1.len(), 0);
        assert!(!path.exists());
    }
}
