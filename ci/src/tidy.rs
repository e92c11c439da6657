//! Tidy: rules of the house that no compiler checks. Owns the rules; reads the tree, never writes it.
//!
//! Each rule is a pure function from a [`Tree`] to complaints, so that each is tested on a tree of two lines that
//! breaks it. Invariant: a complaint names the file, the line where there is one, and what to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Lines a source or text file may have; past this one asks which noun wants to leave.
pub const LINES_MAX: usize = 800;
/// Bytes a file of the repository may have, the sample of real records aside.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Lines a decision may have: half a page, with its headings.
pub const DECISION_LINES_MAX: usize = 60;

/// The headings of a decision, in order.
const DECISION_PARTS: [&str; 5] = ["question", "choice", "rejected", "number", "what would change it"];
/// The one file that may be larger than [`FILE_BYTES_MAX`].
const SAMPLE: &str = "tools/sample/commits-sample.ndjson.zst";
/// File name endings that hold text written by people.
const TEXT_ENDINGS: [&str; 8] = [".rs", ".py", ".md", ".toml", ".sh", ".lua", ".txt", ".yml"];
/// Scripts without an ending.
const SCRIPTS: [&str; 4] = ["ci/check", "ci/fix", "ci/campaign", ".ci/run"];

/// Words that stand for work left undone. Split so that this file passes its own rule.
const UNFINISHED: [&str; 9] = [
    concat!("to", "do"),
    concat!("fix", "me"),
    concat!("st", "ub"),
    concat!("st", "ubs"),
    concat!("xx", "x"),
    concat!("for", " now"),
    concat!("not", " implemented"),
    concat!("simplified", " version"),
    concat!("in a", " real"),
];
/// Words that name what is outside the project: a reader of the repository has none of it.
const OUTSIDE: [&str; 8] = [
    concat!("/wo", "rk/"),
    concat!("brief", ".md"),
    concat!("the ", "brief"),
    concat!("shared/", "spec"),
    concat!("shared/", "lab"),
    concat!(".lib", "rary"),
    concat!("sub", "agent"),
    concat!("sub-", "agent"),
];
/// Lines that may carry an unfinished word: names that others gave.
const GIVEN_NAMES: [&str; 2] = [concat!("to", "do = \"deny\""), concat!("clippy::to", "do")];

/// The files of the repository by path from its top, as git lists them.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Reads every file that git tracks, or would track, below `top`. A file removed but not yet committed is left
    /// out. Errors: git is not there or `top` is no repository.
    #[expect(clippy::disallowed_methods, reason = "tidy reads the source tree, it is no part of the system")]
    pub fn read(top: &Path) -> Result<Tree, String> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(top)
            .output()
            .map_err(|e| format!("git ls-files in {}: {e}", top.display()))?;
        if !output.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let mut files = BTreeMap::new();
        for name in String::from_utf8_lossy(&output.stdout).split('\0').filter(|name| !name.is_empty()) {
            if let Ok(bytes) = std::fs::read(top.join(name)) {
                files.insert(name.to_owned(), bytes);
            }
        }
        Ok(Tree { files })
    }

    /// A tree made of literals, for tests of a rule.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        Tree {
            files: files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect(),
        }
    }

    /// Count of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Text files with their text; a file that is not UTF-8 is no text.
    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(name, _)| is_text(name))
            .filter_map(|(name, bytes)| std::str::from_utf8(bytes).ok().map(|text| (name.as_str(), text)))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.files.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// True where `path` is a file or a folder of the tree.
    fn holds(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        path.is_empty()
            || self.files.contains_key(path)
            || self.files.keys().any(|name| name.starts_with(&folder))
    }
}

/// All complaints of all rules, in order of rule and file.
pub fn complaints(tree: &Tree) -> Vec<String> {
    let rules: [fn(&Tree) -> Vec<String>; 8] = [
        long_files,
        files_without_head,
        unfinished_words,
        outside_words,
        dependencies_without_reason,
        incomplete_decisions,
        architecture_gaps,
        large_files,
    ];
    let mut all: Vec<String> = rules.iter().flat_map(|rule| rule(tree)).collect();
    all.extend(dead_links(tree));
    all
}

fn is_text(name: &str) -> bool {
    TEXT_ENDINGS.iter().any(|ending| name.ends_with(ending)) || SCRIPTS.contains(&name)
}

fn long_files(tree: &Tree) -> Vec<String> {
    tree.texts()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, count)| *count > LINES_MAX)
        .map(|(name, count)| {
            format!("{name}: {count} lines, at most {LINES_MAX}; which noun wants to leave?")
        })
        .collect()
}

fn files_without_head(tree: &Tree) -> Vec<String> {
    tree.texts()
        .filter(|(name, text)| name.ends_with(".rs") && !text.starts_with("//!"))
        .map(|(name, _)| {
            format!("{name}:1: begin with //! and what the file owns, must never do, its invariant")
        })
        .collect()
}

fn unfinished_words(tree: &Tree) -> Vec<String> {
    words(tree, &UNFINISHED, "stands for work left undone; finish it or leave it out")
}

fn outside_words(tree: &Tree) -> Vec<String> {
    words(tree, &OUTSIDE, "is outside the project; say it without")
}

fn words(tree: &Tree, banned: &[&str], advice: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, text) in tree.texts() {
        for (index, line) in text.lines().enumerate() {
            if GIVEN_NAMES.iter().any(|given| line.contains(given)) {
                continue;
            }
            let lower = line.to_lowercase();
            for word in banned.iter().filter(|word| contains_word(&lower, word)) {
                complaints.push(format!("{name}:{}: \"{word}\" {advice}", index + 1));
            }
        }
    }
    complaints
}

/// True where `word` stands in `line` with no letter, digit or underscore beside it.
fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let begins_open = !word.starts_with(part) || !before.is_some_and(part);
        let ends_open = !word.ends_with(part) || !after.is_some_and(part);
        begins_open && ends_open
    })
}

/// An outside dependency carries its reason where its version stands: at the end of the line or on the line above.
fn dependencies_without_reason(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, text) in tree.texts().filter(|(name, _)| name.ends_with("Cargo.toml")) {
        let mut inside = false;
        let mut above = "";
        for (index, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.starts_with('[') {
                inside = trimmed.trim_matches(['[', ']']).ends_with("dependencies");
            } else if inside && trimmed.contains('=') && !trimmed.starts_with('#') {
                let ours = trimmed.contains("path = ") || trimmed.contains("workspace = true");
                if !ours && !trimmed.contains(" # ") && !above.starts_with("# ") {
                    let package = trimmed.split('=').next().unwrap_or(trimmed).trim();
                    complaints.push(format!("{name}:{}: say why {package} is needed, behind a #", index + 1));
                }
            }
            above = trimmed;
        }
    }
    complaints
}

fn incomplete_decisions(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let decisions = tree.texts().filter(|(name, _)| {
        name.strip_prefix("ci/decisions/").is_some_and(|file| file != "README.md" && file.ends_with(".md"))
    });
    for (name, text) in decisions {
        let headings: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|h| h.trim().to_lowercase())
            .collect();
        if headings != DECISION_PARTS {
            complaints.push(format!(
                "{name}: needs exactly the headings {DECISION_PARTS:?}, in this order, has {headings:?}"
            ));
        }
        if text.lines().count() > DECISION_LINES_MAX {
            complaints.push(format!("{name}: half a page, at most {DECISION_LINES_MAX} lines"));
        }
        let number = name.trim_start_matches("ci/decisions/").split('-').next().unwrap_or("");
        if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) {
            complaints.push(format!("{name}: is named NNNN-title.md"));
        }
    }
    complaints
}

fn architecture_gaps(tree: &Tree) -> Vec<String> {
    let Some(text) = tree.text("ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md: is missing".to_owned()];
    };
    let mut folders: Vec<&str> =
        tree.files.keys().filter_map(|name| name.split_once('/')).map(|(top, _)| top).collect();
    folders.dedup();
    folders
        .into_iter()
        .filter(|folder| !folder.starts_with('.'))
        .filter(|folder| !text.contains(&format!("`{folder}`")) && !text.contains(&format!("{folder}/")))
        .map(|folder| format!("ARCHITECTURE.md: does not say what {folder}/ owns"))
        .collect()
}

fn large_files(tree: &Tree) -> Vec<String> {
    tree.files
        .iter()
        .filter(|(name, bytes)| bytes.len() > FILE_BYTES_MAX && name.as_str() != SAMPLE)
        .map(|(name, bytes)| format!("{name}: {} bytes, at most {FILE_BYTES_MAX}", bytes.len()))
        .collect()
}

/// Links of Markdown files to other files of the tree. Links to the network and to places in the same file are not
/// followed; a link that leaves the repository is dead.
fn dead_links(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, text) in tree.texts().filter(|(name, _)| name.ends_with(".md")) {
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced || line.starts_with("    ") {
                continue;
            }
            for target in link_targets(line) {
                let file = target.split('#').next().unwrap_or("");
                if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if resolve(name, file).is_none_or(|path| !tree.holds(&path)) {
                    complaints.push(format!("{name}:{}: link to {target} leads nowhere", index + 1));
                }
            }
        }
    }
    complaints
}

/// The targets of `[text](target)` in a line, code in backticks left out.
fn link_targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (index, outside_code) in line.split('`').enumerate() {
        if index % 2 == 1 {
            continue;
        }
        for (at, _) in outside_code.match_indices("](") {
            let rest = &outside_code[at + 2..];
            if let Some(end) = rest.find(')') {
                targets.push(&rest[..end]);
            }
        }
    }
    // A link whose text is code spans the backticks: `[`a`](b)` leaves "](b)" in an even part, found above.
    targets
}

/// The path from the top of a link in `from`, or `None` where it leaves the repository.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { from.split('/').collect() };
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule complains of `bad` and is content with `good`.
    fn rule(rule: fn(&Tree) -> Vec<String>, bad: &[(&str, &str)], good: &[(&str, &str)]) {
        assert_eq!(rule(&Tree::of(bad)).len(), 1, "{:?}", rule(&Tree::of(bad)));
        assert_eq!(rule(&Tree::of(good)), Vec::<String>::new());
    }

    #[test]
    fn the_tree_is_tidy() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the workspace");
        let tree = Tree::read(top).expect("git lists the tree");
        assert!(tree.file_count() > 20, "git listed {} files only", tree.file_count());
        let complaints = complaints(&tree);
        assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    }

    #[test]
    fn long_files_are_named() {
        let (long, short) = ("x\n".repeat(LINES_MAX + 1), "x\n".repeat(LINES_MAX));
        rule(long_files, &[("a/b.rs", &long)], &[("a/b.rs", &short), ("data.bin", &long)]);
    }

    #[test]
    fn a_file_says_what_it_owns() {
        rule(
            files_without_head,
            &[("a.rs", "use x;\n")],
            &[("a.rs", "//! Owns x.\n"), ("a.py", "import x\n")],
        );
    }

    #[test]
    fn unfinished_words_are_found_as_words() {
        let bad = format!("//! a\n// {} later\n", concat!("TO", "DO:"));
        rule(unfinished_words, &[("a.rs", &bad)], &[("a.rs", "//! a stubborn mastodon\n")]);
        let bad = format!("it is small, {}.\n", concat!("for", " now"));
        rule(unfinished_words, &[("a.md", &bad)], &[("a.md", "what it is for nowadays\n")]);
    }

    #[test]
    fn words_of_the_outside_are_found() {
        let bad = format!("see {}main\n", concat!("/wo", "rk/"));
        rule(outside_words, &[("a.md", &bad)], &[("a.md", "the homework/ folder, ../shared/data\n")]);
    }

    #[test]
    fn a_dependency_says_why() {
        let good = "[dependencies]\nlayout = { workspace = true }\na = \"1\" # why\n# why too\nb = \"1\"\n[lints]\nc = \"1\"\n";
        rule(
            dependencies_without_reason,
            &[("x/Cargo.toml", "[dev-dependencies]\na = \"1\"\n")],
            &[("x/Cargo.toml", good)],
        );
    }

    #[test]
    fn a_decision_has_its_five_parts() {
        let good = "# 0001 A\n## Question\n## Choice\n## Rejected\n## Number\n## What would change it\n";
        let bad = good.replace("## Number\n", "");
        let name = "ci/decisions/0001-a.md";
        rule(incomplete_decisions, &[(name, &bad)], &[(name, good), ("ci/decisions/README.md", "x")]);
        rule(incomplete_decisions, &[("ci/decisions/one.md", good)], &[]);
        rule(incomplete_decisions, &[(name, &format!("{good}{}", "x\n".repeat(60)))], &[]);
    }

    #[test]
    fn the_map_names_each_folder() {
        rule(
            architecture_gaps,
            &[("ARCHITECTURE.md", "`net/` is the wire"), ("net/a", ""), ("shard/b", ""), (".ci/run", "")],
            &[("ARCHITECTURE.md", "`net`, `shard/`"), ("net/a", ""), ("shard/b", ""), ("README.md", "")],
        );
        rule(architecture_gaps, &[("net/a", "")], &[("ARCHITECTURE.md", "")]);
    }

    #[test]
    fn large_files_are_named() {
        let large = "x".repeat(FILE_BYTES_MAX + 1);
        rule(large_files, &[("a.bin", &large)], &[(SAMPLE, &large), ("b.bin", "x")]);
    }

    #[test]
    fn links_lead_somewhere() {
        let good = [
            (
                "a/b.md",
                "[c](../c.md#part) [d](d/) `[x](y)` [n](https://example.org) [h](#here)\n```\n[x](y)\n```\n",
            ),
            ("c.md", "[b](a/b.md)"),
            ("a/d/e", ""),
        ];
        rule(dead_links, &[("a/b.md", "see [c](c.md)"), ("c.md", "")], &good);
        rule(dead_links, &[("a.md", "see [c](../c.md)")], &[]);
        rule(dead_links, &[("a.md", "see [`c`](c.md)")], &[]);
    }
}
