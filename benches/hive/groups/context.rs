//! Owns the context group: content stored and fetched by its digest. In process, the floor reads, hashes and writes the
//! same bytes, and does nothing else; a whole command is compared with others that hash or store a file.
//!
//! Invariant: every stored content is new, and what was stored is removed outside of the measurement.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hive::store::Context;
use sha2::{Digest, Sha256};

use crate::error::{Result, Trying, failure};
use crate::live::Hive;
use crate::process::Program;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "context",
    about: "content put and fetched by its SHA-256; floor: read, hash, write and nothing else; peers: git, sha256sum",
    pairs,
};

const KB: usize = 1000;
const MB: usize = 1000 * KB;
/// What both sides read and write at a time.
const CHUNK: usize = 256 * 1024;

fn pairs(config: &Config) -> Vec<Pair> {
    let most = config.pick(100 * MB, 1000 * MB);
    let sizes = [(50 * KB, config.pick(100, 400)), (10 * MB, config.pick(8, 25)), (most, config.pick(2, 3))];
    let mut pairs = Vec::new();
    for (size, samples) in sizes {
        let goal = Goal::Cost { p50: 1.2, p99: None };
        let put = Pair::new(format!("put {}, in process", label(size)), "us", goal, move || puts(size, samples));
        pairs.push(put.against(move || bare_puts(size, samples)));
    }
    for (size, samples) in [(50 * KB, config.pick(200, 1000)), (10 * MB, config.pick(10, 40))] {
        let goal = Goal::Cost { p50: 1.5, p99: None };
        let get = Pair::new(format!("get {}, hashed", label(size)), "us", goal, move || gets(size, samples));
        pairs.push(get.against(move || bare_gets(size, samples, true)));
        let path = Pair::new(format!("get {}, by its path", label(size)), "us", goal, move || opens(size, samples));
        pairs.push(path.against(move || bare_gets(size, samples, false)));
    }
    for (size, git, samples) in [(50 * KB, 2.0, config.pick(40, 200)), (10 * MB, 18.0, config.pick(5, 15))] {
        for (peer, goal) in [(Peer::Git, git), (Peer::Sha256sum, 1.0)] {
            let name = format!("whole `context put`, {}, against {}", label(size), peer.label());
            let put = Pair::new(name, "us", Goal::SpeedUp(Some(goal)), move || whole_puts(size, samples));
            pairs.push(put.against(move || peer.runs(size, samples)));
        }
    }
    pairs
}

fn label(size: usize) -> String {
    match size {
        0..MB => format!("{} KB", size / KB),
        _ => format!("{} MB", size / MB),
    }
}

/// A file of so many bytes that no compression makes less, in fresh folders; each sample changes it.
struct Source {
    hive: Hive,
    path: PathBuf,
    file: File,
    version: u64,
}

impl Source {
    fn new(size: usize) -> Result<Source> {
        let hive = Hive::fresh()?;
        let path = hive.folder().join("source");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).trying("making a file")?;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut left = size;
        while left > 0 {
            let words = (0..CHUNK / 8).flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            let chunk: Vec<u8> = words.take(left).collect();
            file.write_all(&chunk).trying("filling a file")?;
            left -= chunk.len();
        }
        file.sync_all().trying("filling a file")?;
        Ok(Source { hive, path, file, version: 0 })
    }

    /// Other bytes than ever before, at their beginning.
    fn change(&mut self) -> Result<()> {
        self.version += 1;
        self.file.write_all_at(&self.version.to_le_bytes(), 0).trying("changing a file")
    }

    /// A store that has been in use: its folders are there.
    fn store(&self) -> Result<PathBuf> {
        let store = self.hive.folder().join("context");
        for name in (0..=255).map(|first: u8| format!("{first:02x}")).chain(["tmp".into()]) {
            fs::create_dir_all(store.join(name)).trying("making the store")?;
        }
        Ok(store)
    }
}

/// Times `work` on ever new content; then `clean` removes what it left.
fn time(
    samples: usize,
    source: &mut Source,
    mut work: impl FnMut(&Path) -> Result<()>,
    mut clean: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut taken = Vec::with_capacity(samples);
    // The first is not counted: it warms up.
    for sample in 0..=samples {
        source.change()?;
        let start = Instant::now();
        work(&source.path)?;
        if sample > 0 {
            taken.push(start.elapsed().as_secs_f64() * 1e6);
        }
        clean()?;
    }
    Ok(taken)
}

fn puts(size: usize, samples: usize) -> Result<Sampler> {
    let mut source = Source::new(size)?;
    Ok(Box::new(move || {
        let store = source.store()?;
        let context = Context::at(&store);
        let put = |path: &Path| {
            let mut file = File::open(path).trying("opening the source")?;
            context.put_from(&mut file).map(drop).trying("storing")
        };
        time(samples, &mut source, put, || empty(&store))
    }))
}

fn bare_puts(size: usize, samples: usize) -> Result<Sampler> {
    let mut source = Source::new(size)?;
    let mut buffer = vec![0; CHUNK];
    Ok(Box::new(move || {
        let copy = source.hive.folder().join("copy");
        let put = |path: &Path| {
            let mut from = File::open(path).trying("opening the source")?;
            let mut to = File::create(&copy).trying("making the copy")?;
            let mut hash = Sha256::new();
            while let n @ 1.. = from.read(&mut buffer).trying("reading")? {
                hash.update(&buffer[..n]);
                to.write_all(&buffer[..n]).trying("writing")?;
            }
            std::hint::black_box(hash.finalize());
            Ok(())
        };
        time(samples, &mut source, put, || fs::remove_file(&copy).trying("removing the copy"))
    }))
}

/// Removes all contents, but not the folders.
fn empty(store: &Path) -> Result<()> {
    for folder in fs::read_dir(store).trying("listing the store")?.flatten() {
        for file in fs::read_dir(folder.path()).trying("listing the store")?.flatten() {
            fs::remove_file(file.path()).trying("emptying the store")?;
        }
    }
    Ok(())
}

fn gets(size: usize, samples: usize) -> Result<Sampler> {
    stored(size, samples, |context, digest| {
        // Larger content was read once, to be hashed; its file is there to be mapped or sent on.
        std::hint::black_box(context.verified(digest).trying("fetching")?);
        Ok(())
    })
}

fn opens(size: usize, samples: usize) -> Result<Sampler> {
    stored(size, samples, |context, digest| read(&mut context.open(digest).trying("opening content")?, None))
}

fn stored(size: usize, samples: usize, fetch: fn(&Context, &str) -> Result<()>) -> Result<Sampler> {
    let source = Source::new(size)?;
    let context = Context::at(&source.store()?);
    let digest =
        context.put_from(&mut File::open(&source.path).trying("opening the source")?).trying("storing")?.digest;
    Ok(Box::new(move || {
        let _source = &source;
        repeat(samples, || fetch(&context, &digest))
    }))
}

fn bare_gets(size: usize, samples: usize, hashed: bool) -> Result<Sampler> {
    let source = Source::new(size)?;
    Ok(Box::new(move || {
        // All of it: its folders go with it.
        let source = &source;
        repeat(samples, || {
            let mut hash = hashed.then(Sha256::new);
            read(&mut File::open(&source.path).trying("opening")?, hash.as_mut())?;
            std::hint::black_box(hash.map(Sha256::finalize));
            Ok(())
        })
    }))
}

fn read(file: &mut File, mut hash: Option<&mut Sha256>) -> Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        buffer.clear();
        Read::by_ref(file).take(CHUNK as u64).read_to_end(&mut buffer).trying("reading")?;
        if buffer.is_empty() {
            return Ok(());
        }
        if let Some(hash) = &mut hash {
            hash.update(&buffer);
        }
        std::hint::black_box(&buffer);
    }
}

fn repeat(samples: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    work()?;
    (0..samples)
        .map(|_| {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64() * 1e6)
        })
        .collect()
}

fn whole_puts(size: usize, samples: usize) -> Result<Sampler> {
    let mut source = Source::new(size)?;
    let command = source.hive.program(&["context", "put", &source.path.to_string_lossy()])?;
    Ok(Box::new(move || {
        let store = source.store()?;
        time(samples, &mut source, |_| command.run(), || empty(&store))
    }))
}

/// A command that does a part of the same with a file.
#[derive(Clone, Copy)]
enum Peer {
    Git,
    Sha256sum,
}

impl Peer {
    fn label(self) -> &'static str {
        match self {
            Peer::Git => "git hash-object -w",
            Peer::Sha256sum => "sha256sum",
        }
    }

    fn runs(self, size: usize, samples: usize) -> Result<Sampler> {
        let mut source = Source::new(size)?;
        let file = source.path.to_string_lossy().into_owned();
        let repository = source.hive.folder().join("git");
        let command = match self {
            Peer::Sha256sum => Program::new(&in_path("sha256sum")?, &[&file])?,
            Peer::Git => {
                let git = in_path("git")?;
                Program::new(&git, &["init", "-q", "--bare", &repository.to_string_lossy()])?.run()?;
                Program::new(&git, &["hash-object", "-w", &file])?.env("GIT_DIR", &repository)?
            }
        };
        Ok(Box::new(move || time(samples, &mut source, |_| command.run(), || Ok(()))))
    }
}

fn in_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.ok_or_else(|| failure(format!("{program} is not in PATH")))
}
