//! A `qemu-system-aarch64` of our own, for the tool to find first: it notes how it was called, may
//! damage the image on its way, and becomes the real one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program that it stands for.
const NAME: &str = "qemu-system-aarch64";

/// See the module.
#[derive(Debug)]
pub struct Wrapper {
    directory: TempDir,
}

impl Wrapper {
    /// One that changes nothing.
    ///
    /// # Panics
    ///
    /// If the file system does not let it.
    #[must_use]
    pub fn new() -> Self {
        Self::with_damage(":")
    }

    /// One that changes the byte after the first occurrence of `marker` in the image. The marker is of
    /// letters and digits.
    ///
    /// # Panics
    ///
    /// If the file system does not let it.
    #[must_use]
    pub fn that_corrupts_after(marker: &str) -> Self {
        Self::with_damage(&format!(
            "offset=$(LC_ALL=C grep -abo {marker} \"$image\" | head -n 1 | cut -d : -f 1)\n        \
             printf '\\377' | dd of=\"$image\" bs=1 seek=$((offset + {})) conv=notrunc 2>/dev/null",
            marker.len()
        ))
    }

    /// One that cuts the image off after so many bytes.
    ///
    /// # Panics
    ///
    /// If the file system does not let it.
    #[must_use]
    pub fn that_truncates_to(bytes: u64) -> Self {
        Self::with_damage(&format!(
            "head -c {bytes} \"$image\" > \"$image.short\" && mv \"$image.short\" \"$image\""
        ))
    }

    fn with_damage(damage: &str) -> Self {
        crate::tool::prepare_machine();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let here = directory.path().display();
        let real = real();
        let real = real.display();
        let script = format!(
            r#"#!/bin/sh
set -eu
case " $* " in
*" -kernel "*) ;;
*) exec '{real}' "$@" ;; # asked for its version
esac
printf '%s\n' "$@" > '{here}/arguments'
image='{here}/image'
previous=
count=$#
while [ "$count" -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    if [ "$previous" = -kernel ]; then
        cp "$argument" "$image"
        {damage}
        argument=$image
    fi
    previous=$argument
    set -- "$@" "$argument"
done
echo $$ > '{here}/process.new'
mv '{here}/process.new' '{here}/process'
exec '{real}' "$@"
"#
        );
        let path = directory.path().join(NAME);
        fs::write(&path, script).expect("a script in a temporary directory");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        }
        Self { directory }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How QEMU was called to boot.
    ///
    /// # Panics
    ///
    /// If it was not.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        fs::read_to_string(self.directory.path().join("arguments"))
            .expect("the tool called this QEMU")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The process that QEMU runs as, as soon as it does.
    ///
    /// # Panics
    ///
    /// If it does not within so much time.
    #[must_use]
    pub fn process(&self, patience: Duration) -> u32 {
        let deadline = Instant::now() + patience;
        let path = self.directory.path().join("process");
        while Instant::now() < deadline {
            if let Ok(text) = fs::read_to_string(&path) {
                return text.trim().parse().expect("a process id");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the tool did not start QEMU");
    }
}

impl Default for Wrapper {
    fn default() -> Self {
        Self::new()
    }
}

/// The real one.
fn real() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(NAME))
        .find(|path| path.is_file())
        .expect("`setup` saw to it that QEMU is in the path")
}
