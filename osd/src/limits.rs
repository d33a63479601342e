//! The process's limit of open files, raised as far as the system lets us.

/// Raises the soft limit of open files to the hard one: every object in use has a descriptor, and
/// the usual soft limit of 1024 is meant for programs that use `select`.
pub(crate) fn raise_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable `rlimit` that outlives the call.
    #[expect(unsafe_code, reason = "the standard library has no getrlimit")]
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if got != 0 || limit.rlim_cur >= limit.rlim_max {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid `rlimit` that outlives the call.
    #[expect(unsafe_code, reason = "the standard library has no setrlimit")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if set != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
