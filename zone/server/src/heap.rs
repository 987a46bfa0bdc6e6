//! How glibc's allocator is asked to work: with as many arenas as there are cores. Left to itself it makes eight for each,
//! and what a storm of proxies leaves free in one arena is of no use to the threads of another: a seventh of the memory.
//!
//! It reads its settings once, from the environment, before `main`. So the program starts itself anew with them; the
//! process stays the same one.
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const ARENAS: &str = "MALLOC_ARENA_MAX";
/// Other settings of glibc, which may say the same.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Must come first in `main`. An operator's own settings stay, and where this is not possible the program goes on without.
pub fn bound() {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if let Some(arenas) = wanted(cores, is_set)
        && let Ok(program) = std::env::current_exe()
    {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| program.clone().into());
        let _not_started =
            Command::new(program).arg0(name).args(arguments).env(ARENAS, arenas.to_string()).exec();
    }
}

fn wanted(cores: usize, is_set: impl Fn(&str) -> bool) -> Option<usize> {
    let is_open = cfg!(target_env = "gnu") && !is_set(ARENAS) && !is_set(TUNABLES);
    is_open.then_some(cores.max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_an_operator_stay_and_a_program_that_has_them_goes_on() {
        let expected = cfg!(target_env = "gnu").then_some(4);
        assert_eq!(wanted(4, |_| false), expected);
        assert_eq!(wanted(4, |name| name == ARENAS), None);
        assert_eq!(wanted(4, |name| name == TUNABLES), None);
    }
}
