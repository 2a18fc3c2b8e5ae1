//! Faults of the disk under one program: a shim around its system calls, compiled here and loaded by `LD_PRELOAD`. What
//! it answers is what a real disk answers; the kernel below it is not touched, so it needs no rights.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::program::{Folder, Program};

/// The errors, as Linux numbers them.
pub const EIO: i32 = 5;
pub const EACCES: i32 = 13;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;

/// The faults of one program's store.
pub struct Faults {
    file: PathBuf,
    log: PathBuf,
}

impl Faults {
    /// Starts a gateway whose store can be made to fail.
    pub fn start(name: &str, more: &str) -> (Program, Self) {
        let program = Program::launch(name, more, &super::program::amqp_url(), load);
        let folder = program.folder().path();
        let faults = Self { file: folder.join("faults"), log: folder.join("calls") };
        (program, faults)
    }

    /// From now on these calls fail: `write`, `fsync`, `read`, `truncate`, `rename`, `unlink`, `open` (to write), `openr`.
    pub fn set(&self, faults: &[(&str, i32)]) {
        self.write(faults.iter().map(|(call, error)| format!("{call} {error}\n")).collect());
    }

    /// The next one fails, and those after it do not.
    pub fn set_once(&self, call: &str, error: i32) {
        self.write(format!("{call} {error} once\n"));
    }

    /// Nothing fails any more.
    pub fn clear(&self) {
        self.write(String::new());
    }

    /// What was called since the last change, as `CALL FILE ERRNO`.
    pub fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn write(&self, text: String) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        let _ = std::fs::remove_file(&self.log);
        std::fs::rename(new, &self.file).unwrap();
    }
}

/// Puts the shim before a gateway.
pub fn load(mut command: Command) -> Command {
    let config = command.get_args().last().map(PathBuf::from).unwrap();
    let folder = config.parent().unwrap().to_owned();
    command.env("LD_PRELOAD", shim()).env("FAULT_PATH", folder.join("gateway.db"));
    command.env("FAULTS", folder.join("faults")).env("FAULT_LOG", folder.join("calls"));
    command
}

fn shim() -> &'static Path {
    static SHIM: OnceLock<(Folder, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let folder = Folder::new();
        let path = folder.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/faults.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source).arg("-ldl");
        assert!(compiler.status().expect("a C compiler, as the build needs one").success());
        (folder, path)
    });
    path
}
