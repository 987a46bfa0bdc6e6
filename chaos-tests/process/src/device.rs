//! Disks that can lose power and disks that are small: file systems in a loop-mounted file, and in memory. They need root.
//!
//! What an ext4 in a loop-mounted file has not been told to make durable is in the page cache of that ext4, not in the
//! file: a copy of the file is what a disk holds after a power cut.
use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Gives this process a mount namespace of its own: what it mounts nobody else sees, and it is gone when the process and
/// its children are, whatever ends them. To be called before there are threads.
pub fn own_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace of our own")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot keep mounts private")
}

/// Why no disk can be made here; `None` where one can.
pub fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("mounts need root".to_owned());
    }
    let is_there = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    ["mkfs.ext4", "mount", "losetup", "fsfreeze"]
        .into_iter()
        .find(|program| !is_there(program))
        .map(|program| format!("there is no {program}"))
}

/// A mounted file system; unmounted when it is dropped, and its loop device is let go with it.
#[derive(Debug)]
pub struct Disk {
    /// The file that it lies in; none when it lies in memory.
    image: Option<PathBuf>,
    pub place: PathBuf,
}

/// Changes that nobody has asked to be durable stay off the file for longer than any test runs: the journal commits by
/// itself after so many seconds.
const COMMIT_SECONDS: u32 = 300;

impl Disk {
    /// An ext4 in a new file of this size. Nothing is left to be written in the background.
    pub fn ext4(image: &Path, place: &Path, megabytes: u64) -> Result<Disk> {
        let file = fs::File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
        file.set_len(megabytes << 20)?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-J", "size=8"]);
        run(mkfs.arg(image))?;
        Disk::mount_image(image, place)
    }

    /// Mounts what is in a file; ext4 replays its journal first.
    pub fn mount_image(image: &Path, place: &Path) -> Result<Disk> {
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let options = format!("loop,noatime,commit={COMMIT_SECONDS}");
        run(Command::new("mount").args(["-t", "ext4", "-o", &options]).arg(image).arg(place))?;
        Ok(Disk { image: Some(image.to_owned()), place: place.to_owned() })
    }

    /// A file system in memory that holds so much.
    pub fn in_memory(place: &Path, megabytes: u64) -> Result<Disk> {
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let options = format!("size={megabytes}m");
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("cannot mount {}", place.display()))?;
        Ok(Disk { image: None, place: place.to_owned() })
    }

    /// What the disk holds at this moment, as a file of its own.
    pub fn copy_to(&self, copy: &Path) -> Result<()> {
        let image = self.image.as_ref().context("a disk in memory holds nothing without power")?;
        run(Command::new("cp").arg("--sparse=always").arg(image).arg(copy))
    }

    /// All that was written is durable: a quiet point before a test's own writes.
    pub fn sync(&self) -> Result<()> {
        run(Command::new("sync").arg("--file-system").arg(&self.place))
    }

    /// Every write and every fsync hangs until what this gives is dropped.
    pub fn stall(&self) -> Result<Stalled> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.place))?;
        Ok(Stalled(self.place.clone()))
    }
}

/// A disk that hangs.
#[derive(Debug)]
pub struct Stalled(PathBuf);

impl Drop for Stalled {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0)) {
            eprintln!("{} still hangs: {error:#}", self.0.display());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that has just been killed may still hold a file: the rest of the unmount comes when it lets go.
        if let Err(error) = umount2(&self.place, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.place.display());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
