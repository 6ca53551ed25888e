//! The programs of sockets, on the cgroup that holds the node's processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sheetbend_ebpf_abi::{NodeConfig, SOCKET_COUNTED, SOCKET_PROGRAMS};

use super::error::BpfError;
use super::kernel::Kernel;
use super::loader::{Pins, Version, pin_error};
use super::sweep::delete_where;
use super::sys;

/// Magic number of cgroup v2 (linux/magic.h).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Name of a program's link among the pins.
fn pin_name(program: &str) -> String {
    format!("cgroup-{program}")
}

impl Kernel {
    /// Lets every process under `cgroup`, a directory of a cgroup v2 file system, reach Services by its sockets. What an
    /// older version left there is replaced in one step a program; links to another directory are moved.
    ///
    /// # Errors
    /// When it is no such directory, when another instance's programs are there, and what the kernel says.
    pub fn attach_cgroup(&mut self, cgroup: &Path) -> Result<(), BpfError> {
        let directory = open_cgroup(cgroup)?;
        let id = directory.metadata().map_err(|source| cgroup_error(cgroup, source))?.ino();
        self.refuse_claimed(cgroup, directory.as_fd())?;
        for (name, attach_type) in SOCKET_PROGRAMS {
            self.version.attach_socket(&self.pins, name, attach_type, (directory.as_fd(), id, cgroup))?;
        }
        self.config = NodeConfig { netns: netns_cookie().to_ne_bytes(), ..self.config };
        self.write_config()
    }

    /// (link, program), by the kernel's ids, of each program of sockets that is attached.
    ///
    /// # Errors
    /// When a pin cannot be read.
    pub fn socket_links(&self) -> Result<Vec<(u32, u32)>, BpfError> {
        let mut found = Vec::new();
        for (name, _) in SOCKET_PROGRAMS {
            let path = self.pins.links.join(pin_name(name));
            let link = match sys::open_pin(&path) {
                Ok(link) => link,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(pin_error(&path, source)),
            };
            let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
            found.push((info.id, info.prog_id));
        }
        Ok(found)
    }

    /// Takes the programs of sockets off, if there are any. Nobody sees any more when a socket closes: none counts.
    pub fn detach_cgroup(&self) -> Result<(), BpfError> {
        delete_where(&self.flows.sockets, |key, _| key.kind == SOCKET_COUNTED)?;
        for (name, _) in SOCKET_PROGRAMS {
            let path = self.pins.links.join(pin_name(name));
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(pin_error(&path, source));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Another instance's programs would translate the same calls twice. They are known by their names.
    fn refuse_claimed(&self, cgroup: &Path, directory: BorrowedFd<'_>) -> Result<(), BpfError> {
        for (name, attach_type) in SOCKET_PROGRAMS {
            let own = self.pins.links.join(pin_name(name));
            let own = sys::open_pin(&own).ok().and_then(|link| sys::link_info(link.as_fd()).ok());
            let there = sys::effective_programs(directory, attach_type)
                .map_err(|source| cgroup_error(cgroup, source))?;
            for id in there.into_iter().filter(|id| own.is_none_or(|own| own.prog_id != *id)) {
                let is_ours = program_name(id).is_some_and(|found| name.starts_with(&found));
                if is_ours {
                    return Err(BpfError::CgroupClaimed { path: cgroup.to_owned(), program: id });
                }
            }
        }
        Ok(())
    }
}

/// Name of a loaded program, of which the kernel keeps 15 bytes.
fn program_name(id: u32) -> Option<String> {
    let program = aya::programs::loaded_programs().flatten().find(|info| info.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

impl Version {
    fn attach_socket(
        &self,
        pins: &Pins,
        name: &'static str,
        attach_type: u32,
        (directory, id, cgroup): (BorrowedFd<'_>, u64, &Path),
    ) -> Result<(), BpfError> {
        let path = pins.links.join(pin_name(name));
        match sys::open_pin(&path) {
            Ok(link) => {
                let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
                if info.cgroup_id() == id {
                    return self.replace_socket(name, link.as_fd(), &info, cgroup);
                }
                fs::remove_file(&path).map_err(|source| pin_error(&path, source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(pin_error(&path, source)),
        }
        let program = self.sockets[name].fd.as_fd();
        let link = sys::link_create(program, directory.as_raw_fd() as u32, attach_type)
            .map_err(|source| cgroup_error(cgroup, source))?;
        sys::pin(link.as_fd(), &path).map_err(|source| pin_error(&path, source))
    }

    fn replace_socket(
        &self,
        name: &'static str,
        link: BorrowedFd<'_>,
        info: &sys::LinkInfo,
        place: &Path,
    ) -> Result<(), BpfError> {
        let program = &self.sockets[name];
        if info.prog_id == program.id {
            return Ok(());
        }
        sys::link_update(link, program.fd.as_fd()).map_err(|source| cgroup_error(place, source))
    }

    /// Puts this version's programs in place of another's, where there are any.
    pub(super) fn replace_sockets(&self, pins: &Pins) -> Result<(), BpfError> {
        for (name, _) in SOCKET_PROGRAMS {
            let path = pins.links.join(pin_name(name));
            let Ok(link) = sys::open_pin(&path) else { continue };
            let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
            self.replace_socket(name, link.as_fd(), &info, &path)?;
        }
        Ok(())
    }
}

/// Opens `path`, or `path/unified` where systemd mounts version 2 beside version 1.
fn open_cgroup(path: &Path) -> Result<File, BpfError> {
    let magic = |path: &Path| nix::sys::statfs::statfs(path).map(|stat| stat.filesystem_type().0);
    let beside = path.join("unified");
    match magic(path) {
        Ok(CGROUP2_SUPER_MAGIC) => File::open(path).map_err(|source| cgroup_error(path, source)),
        Ok(_) if magic(&beside) == Ok(CGROUP2_SUPER_MAGIC) => {
            File::open(&beside).map_err(|source| cgroup_error(&beside, source))
        }
        Ok(_) => Err(BpfError::NoCgroup { path: path.to_owned() }),
        Err(source) => Err(cgroup_error(path, source.into())),
    }
}

fn cgroup_error(path: &Path, source: io::Error) -> BpfError {
    BpfError::Cgroup { path: path.to_owned(), source }
}

/// The cookie of the caller's network namespace; 0 where the kernel does not tell.
fn netns_cookie() -> u64 {
    let socket =
        std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind(("::", 0)));
    socket.ok().and_then(|socket| sys::netns_cookie(socket.as_fd()).ok()).unwrap_or(0)
}
