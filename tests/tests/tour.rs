//! The stranger's tour of `docs/architecture.md` names functions that are there.

use std::fs;
use std::path::Path;

use tests::markdown::Document;
use tests::tour::{defines, lists};
use tests::workspace::root;

/// One MEM_SHARE, one virtio request, one host fault.
const LISTS: usize = 3;

/// The most functions of a list.
const MOST_STOPS: usize = 10;

#[test]
fn each_stop_of_the_tour_is_where_it_says() {
    let document = Document::read(Path::new("docs/architecture.md"));
    let lists = lists(&document).unwrap_or_else(|wrong| panic!("{}", wrong.join("\n")));
    assert_eq!(lists.len(), LISTS, "lists of the tour");
    let mut wrong = Vec::new();
    for list in &lists {
        if list.len() > MOST_STOPS {
            wrong.push(format!("{}: {} functions", document.place(list[0].line), list.len()));
        }
        for stop in list {
            let place = document.place(stop.line);
            let path = root().join(&stop.path);
            let linked = root().join("docs").join(&stop.target);
            match (fs::read_to_string(&path), path.canonicalize().ok() == linked.canonicalize().ok()) {
                (Err(error), _) => wrong.push(format!("{place}: {}: {error}", stop.path)),
                (Ok(_), false) => wrong.push(format!("{place}: the link goes to {}", stop.target)),
                (Ok(text), true) if !defines(&text, &stop.function) => {
                    wrong.push(format!("{place}: {} defines no {}", stop.path, stop.function));
                }
                (Ok(_), true) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
