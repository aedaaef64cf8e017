//! The binary: everything is in the library, for the tests to reach.

fn main() -> std::process::ExitCode {
    chronos::cli::main()
}
