//! What the words of an error mean where its code says too little: `invalid_argument` stands for
//! most of what can be wrong with a path.

use super::fault::{Code, ConnectError};
use crate::provider::files::FileFault;
use crate::provider::processes::ProcessFault;

/// Words of the facade and of Go's `errno`, which is what E2B's file API is written in.
const OF_FILES: [(&str, FileFault); 16] = [
    ("is neither a file nor a directory", FileFault::NotRegular),
    ("is not a directory", FileFault::NotDirectory),
    ("not a directory", FileFault::NotDirectory),
    ("is a directory", FileFault::IsDirectory),
    ("exists already", FileFault::Exists),
    ("already exists", FileFault::Exists),
    ("file exists", FileFault::Exists),
    ("does not exist", FileFault::Missing),
    ("no such file", FileFault::Missing),
    ("not found", FileFault::Missing),
    ("may not be used by", FileFault::Denied),
    ("permission denied", FileFault::Denied),
    ("disk is full", FileFault::Full),
    ("no space left", FileFault::Full),
    ("leads round in a circle", FileFault::Loop),
    ("too many levels of symbolic links", FileFault::Loop),
];

/// What is wrong with a path; `None` if something else is.
pub fn file_fault(error: &ConnectError) -> Option<FileFault> {
    let by_words = || text_fault(&error.message);
    match error.code {
        Code::NotFound => Some(FileFault::Missing),
        Code::PermissionDenied => Some(FileFault::Denied),
        Code::AlreadyExists => Some(FileFault::Exists),
        Code::ResourceExhausted => by_words().filter(|fault| *fault == FileFault::Full),
        Code::InvalidArgument | Code::FailedPrecondition => {
            Some(by_words().unwrap_or(FileFault::Invalid))
        }
        _ => None,
    }
}

/// What is wrong with a path, by its words alone.
pub fn text_fault(text: &str) -> Option<FileFault> {
    OF_FILES.iter().find(|(words, _)| text.contains(words)).map(|(_, fault)| *fault)
}

/// What is wrong with a process; `None` if something else is.
pub fn process_fault(error: &ConnectError) -> Option<ProcessFault> {
    match error.code {
        Code::NotFound => Some(ProcessFault::Missing),
        Code::FailedPrecondition if error.message.contains("has no terminal") => {
            Some(ProcessFault::NoTerminal)
        }
        Code::FailedPrecondition if error.message.contains("has a terminal") => {
            Some(ProcessFault::HasTerminal)
        }
        Code::FailedPrecondition => Some(ProcessFault::NoInput),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_errors_are_understood() {
        // Transcript 48, 50, 40.
        let check = |text: &str, expected| {
            let error = serde_json::from_str(text).expect("an error");
            assert_eq!(file_fault(&error), Some(expected), "{text}");
        };
        check(r#"{"code":"not_found","message":"file not found: zz"}"#, FileFault::Missing);
        check(
            r#"{"code": "already_exists", "message": "directory already exists: d1"}"#,
            FileFault::Exists,
        );
        let gone = r#"{"code": "not_found", "message": "process not found"}"#;
        let gone = serde_json::from_str(gone).expect("an error");
        assert_eq!(process_fault(&gone), Some(ProcessFault::Missing));
    }

    #[test]
    fn what_we_say_ourselves_is_understood() {
        let faults = [
            FileFault::Missing,
            FileFault::Exists,
            FileFault::NotDirectory,
            FileFault::IsDirectory,
            FileFault::NotRegular,
            FileFault::Denied,
            FileFault::Full,
            FileFault::Loop,
        ];
        for fault in faults {
            assert_eq!(text_fault(&format!("/home/user/x {fault}")), Some(fault));
        }
        let processes =
            [ProcessFault::NoInput, ProcessFault::NoTerminal, ProcessFault::HasTerminal];
        for fault in processes {
            let error = ConnectError::new(Code::FailedPrecondition, format!("process 7 {fault}"));
            assert_eq!(process_fault(&error), Some(fault));
        }
    }
}
