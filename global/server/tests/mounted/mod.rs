//! File systems of a test's own.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Unmounted when it is dropped.
pub struct Mounted {
    pub at: PathBuf,
    is_frozen: bool,
}

impl Mounted {
    /// One in memory. None, with the reason said, where mounting is not permitted.
    pub fn tmpfs(at: &Path, mebibytes: u32) -> Option<Mounted> {
        let size = format!("size={mebibytes}m");
        Mounted::mount(at, Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]))
    }

    /// One in a file beside the directory, that can be frozen.
    pub fn ext4(at: &Path, mebibytes: u32) -> Option<Mounted> {
        let image = at.with_extension("img");
        let file = fs::File::create(&image).expect("a file");
        file.set_len(u64::from(mebibytes) << 20).expect("room");
        if !run("make a file system", Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)) {
            return None;
        }
        Mounted::mount(at, Command::new("mount").args(["-o", "loop"]).arg(&image))
    }

    fn mount(at: &Path, command: &mut Command) -> Option<Mounted> {
        fs::create_dir(at).expect("a directory");
        run("mount", command.arg(at)).then(|| Mounted { at: at.to_owned(), is_frozen: false })
    }

    /// Takes all room but so much; gives it back when the file is removed.
    pub fn ballast(&self, left: u64) -> PathBuf {
        let path = self.at.join("ballast");
        let mut size = room(&self.at).saturating_sub(left);
        // Books of the file system take some room, too.
        while fs::write(&path, vec![1; size as usize]).is_err() {
            size = size.saturating_sub(64 << 10);
        }
        path
    }

    /// Whatever is written waits until the thaw.
    pub fn freeze(&mut self, frozen: bool) {
        let flag = if frozen { "-f" } else { "-u" };
        assert!(run("freeze", Command::new("fsfreeze").arg(flag).arg(&self.at)));
        self.is_frozen = frozen;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_frozen {
            self.freeze(false);
        }
        // Lazily: the process that used it may still be ending.
        run("unmount", Command::new("umount").arg("-l").arg(&self.at));
    }
}

/// Says why a command failed.
fn run(what: &str, command: &mut Command) -> bool {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("skipped: cannot {what}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            eprintln!("skipped: cannot {what}: {error}");
            false
        }
    }
}

fn room(at: &Path) -> u64 {
    let space = shared_raft::Space::new(at, shared_raft::Reserve::Bytes(0));
    space.room().expect("a file system").free
}
