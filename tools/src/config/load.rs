//! Settings from all their sources: flag over environment over file over default.
//!
//! Must never drop a word silently: an unknown section or key is an error that names the closest known one. All errors
//! are found, not only the first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::settings::{Kind, Role, SECTIONS, SETTINGS, Setting, Settings};
use crate::failure::Failure;
use crate::file;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// The config file.
    File {
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment,
    /// `--set` or another flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { line } => write!(f, "file, line {line}"),
            Origin::Environment => f.write_str("environment"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// Settings and where each comes from.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The settings.
    pub(crate) settings: Settings,
    /// By `section.key`; what is not in it is a default.
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where a setting comes from.
    pub(crate) fn origin(&self, setting: &Setting) -> Origin {
        self.origins.get(&setting.name()).cloned().unwrap_or(Origin::Default)
    }
}

/// Everything that is wrong, each with its place.
#[derive(Debug, Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn add(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.0.push(format!("{place}: {what}"));
    }
}

/// Reads the file, then what overrides it.
///
/// # Errors
/// All that is wrong, a line each.
pub(crate) fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, Failure> {
    let mut wrong = Wrong::default();
    let mut loaded = Loaded { settings: Settings::default(), origins: BTreeMap::new() };
    if let Some(path) = path {
        read_file(path, &file::text(path)?, &mut loaded, &mut wrong);
    }
    for (variable, text) in environment {
        read_variable(&variable, &text, &mut loaded, &mut wrong);
    }
    for (name, text) in flags {
        match known(name) {
            Ok(setting) => take(setting, text, Origin::Flag, &"--set", &mut loaded, &mut wrong),
            Err(what) => wrong.add("--set", what),
        }
    }
    if let Err(what) = loaded.settings.limits.check() {
        wrong.add("limits", what);
    }
    for what in loaded.settings.cold.wrong(loaded.settings.listen) {
        wrong.add("cold", what);
    }
    for what in loaded.settings.cluster.wrong() {
        wrong.add("cluster", what);
    }
    for what in loaded.settings.sink.wrong(loaded.settings.role, &loaded.settings.cluster) {
        wrong.add("sink", what);
    }
    let is_cold = loaded.settings.role == Role::Cold;
    // No map names a cold node yet: who talks to it has its address.
    let told = is_cold || loaded.settings.advertise.is_some() || !loaded.settings.cluster.nodes.is_empty();
    if loaded.settings.listen.ip().is_unspecified() && !told {
        let what = "listening on all interfaces, clients need one address of them: set network.advertise";
        wrong.add("network.listen", what);
    }
    if wrong.0.is_empty() {
        return Ok(loaded);
    }
    let mend = "mend it; `thermocline config print` shows every setting with its reason";
    Err(Failure::wrong_use(wrong.0.join("\n"), mend))
}

fn take(
    setting: &Setting,
    text: &str,
    origin: Origin,
    place: &dyn fmt::Display,
    loaded: &mut Loaded,
    wrong: &mut Wrong,
) {
    match (setting.set)(&mut loaded.settings, text) {
        Ok(()) => {
            loaded.origins.insert(setting.name(), origin);
        }
        Err(what) => wrong.add(place, format!("{}: {what}", setting.name())),
    }
}

/// A setting by `section.key`.
fn known(name: &str) -> Result<&'static Setting, String> {
    SETTINGS.iter().find(|setting| setting.name() == name).ok_or_else(|| {
        format!("there is no setting {name}{}", closest(name, SETTINGS.iter().map(Setting::name)))
    })
}

/// "; did you mean …?" where one is near.
fn closest(word: &str, among: impl Iterator<Item = String>) -> String {
    let near = among.map(|other| (strsim::damerau_levenshtein(word, &other), other)).min();
    match near {
        Some((distance, other)) if distance <= word.len().max(3) / 3 => format!("; did you mean {other}?"),
        _ => String::new(),
    }
}

/// Variables of settings; those of other purposes (`THERMOCLINE_ENDPOINT`) have no section in their name.
fn read_variable(variable: &str, text: &str, loaded: &mut Loaded, wrong: &mut Wrong) {
    let Some(name) = variable.strip_prefix("THERMOCLINE_") else { return };
    let has_section =
        SECTIONS.iter().any(|section| name.starts_with(&format!("{}_", section.to_uppercase())));
    if !has_section {
        return;
    }
    match SETTINGS.iter().find(|setting| setting.variable() == variable) {
        Some(setting) => take(setting, text, Origin::Environment, &variable, loaded, wrong),
        None => {
            let near = closest(variable, SETTINGS.iter().map(Setting::variable));
            wrong.add("environment", format!("there is no setting {variable}{near}"));
        }
    }
}

fn read_file(path: &Path, text: &str, loaded: &mut Loaded, wrong: &mut Wrong) {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let place = |at: usize| format!("{}:{}", path.display(), line_of(at));
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            wrong.add(place(at), error.message());
            return;
        }
    };
    for (section, value) in &table {
        let name = section.get_ref().as_ref();
        let at = section.span().start;
        if !SECTIONS.contains(&name) {
            let near = closest(name, SECTIONS.iter().map(|section| (*section).to_owned()));
            wrong.add(place(at), format!("there is no section [{name}]{near}"));
            continue;
        }
        let DeValue::Table(keys) = value.get_ref() else {
            wrong.add(place(at), format!("{name} is a section: write [{name}] on a line of its own"));
            continue;
        };
        for (key, value) in keys {
            let at = key.span().start;
            let setting = match known(&format!("{name}.{}", key.get_ref())) {
                Ok(setting) => setting,
                Err(what) => {
                    wrong.add(place(at), what);
                    continue;
                }
            };
            let written = value.span();
            match text_of(setting, value.get_ref(), &text[written.start..written.end]) {
                Ok(text) => {
                    take(setting, &text, Origin::File { line: line_of(at) }, &place(at), loaded, wrong);
                }
                Err(what) => wrong.add(place(at), format!("{}: {what}", setting.name())),
            }
        }
    }
}

/// The text of a TOML value, `written` so in the file, when it is of the kind the setting has.
fn text_of(setting: &Setting, value: &DeValue<'_>, written: &str) -> Result<String, &'static str> {
    match (setting.kind, value) {
        (Kind::List, DeValue::Array(list)) if list.is_empty() => Ok(String::new()),
        (Kind::List, DeValue::Array(_)) => Ok(written.to_owned()),
        (Kind::List, _) => Err("write a list: [ ... ]"),
        (Kind::Text, DeValue::String(text)) => Ok(text.to_string()),
        // A size may be a plain integer of bytes; a duration refuses it by itself.
        (Kind::Text | Kind::Count, DeValue::Integer(number)) if number.radix() == 10 => {
            Ok(number.as_str().to_owned())
        }
        (Kind::Switch, DeValue::Boolean(value)) => Ok(value.to_string()),
        (Kind::Text, _) => Err("write it in quotes, sizes and durations with their unit"),
        (Kind::Count, _) => Err("write a plain integer"),
        (Kind::Switch, _) => Err("write true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn read(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.toml");
        let mut file = file::create(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let own = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        let flags: Vec<_> = flags.iter().map(own).collect();
        load(Some(&path), environment.iter().map(own), &flags)
            .map_err(|failure| failure.what.replace(&format!("{}:", path.display()), "F:"))
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let text = "[limits]\nmark_after = \"1 s\"\nhello_deadline = \"1 s\"\nrequest_deadline = \"1 s\"\n";
        let environment = [
            ("THERMOCLINE_LIMITS_HELLO_DEADLINE", "2 s"),
            ("THERMOCLINE_LIMITS_MARK_AFTER", "2 s"),
            ("THERMOCLINE_ENDPOINT", "elsewhere:1"),
            ("PATH", "x"),
        ];
        let loaded = read(text, &environment, &[("limits.mark_after", "3 s")]).unwrap();
        let limits = &loaded.settings.limits;
        let seconds =
            [limits.mark_after, limits.hello_deadline, limits.request_deadline].map(|d| d.as_secs());
        assert_eq!(seconds, [3, 2, 1]);
        let origin = |key: &str| loaded.origin(known(&format!("limits.{key}")).unwrap()).to_string();
        assert_eq!(origin("mark_after"), "flag");
        assert_eq!(origin("hello_deadline"), "environment");
        assert_eq!(origin("request_deadline"), "file, line 4");
        assert_eq!(origin("drain_deadline"), "default");
        assert_eq!(limits.drain_deadline, Duration::from_secs(10));
    }

    #[test]
    fn all_that_is_wrong_is_named_with_its_line() {
        let text = "[network]\nlisen = \"127.0.0.1:1\"\nlisten = \"here\"\n[limit]\nx = 1\n[limits]\narena_bytes = true\n\
                    recent_count = \"7\"\nring_bytes = 4096\n[node]\npin = 1\n[cold]\ndisk = [\"x\"]\ndisks = \"x\"\n\
                    reads_in_flight = 0\n";
        let wrong = read(text, &[("THERMOCLINE_NODE_SPUN", "1 us")], &[("disk.pat", "x")]).unwrap_err();
        let lines: Vec<&str> = wrong.lines().collect();
        assert_eq!(lines.len(), 12, "{wrong}");
        for expected in [
            "F:2: there is no setting network.lisen; did you mean network.listen?",
            "F:3: network.listen: \"here\" is no address",
            "F:4: there is no section [limit]; did you mean limits?",
            "F:7: limits.arena_bytes: write it in quotes",
            "F:8: limits.recent_count: write a plain integer",
            "F:11: node.pin: write true or false",
            "environment: there is no setting THERMOCLINE_NODE_SPUN; did you mean THERMOCLINE_NODE_SPIN?",
            "--set: there is no setting disk.pat; did you mean disk.path?",
            "limits: ring_bytes must hold",
            "F:13: there is no setting cold.disk; did you mean cold.disks?",
            "F:14: cold.disks: write a list",
            "cold: something may be asked of a disk",
        ] {
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected} is not in\n{wrong}");
        }
        assert!(read("[node\n", &[], &[]).unwrap_err().starts_with("F:1: "));
        assert!(read("node = 1\n", &[], &[]).unwrap_err().contains("[node]"));
        assert!(read("[network]\nlisten = \"0.0.0.0:1\"", &[], &[]).unwrap_err().contains("advertise"));
    }

    #[test]
    fn a_cold_group_is_read_from_file_and_environment() {
        let text = "[sink]\nnodes = [\"10.0.0.1:1\", \"10.0.0.2:1\",\n  \"10.0.0.3:1\"]\ngroup = 7\ndisks = 12\nafter = \"90d\"\n";
        let found =
            read(text, &[("THERMOCLINE_SINK_GROUP", "8")], &[]).unwrap().settings.sink.settings().unwrap();
        assert_eq!(found.nodes.map(|node| node.to_string()), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!((found.group, found.disk_count, found.after.as_secs()), (8, 12, 90 * 86_400));
        assert_eq!(read("", &[], &[]).unwrap().settings.sink.settings(), None);
        let wrong = |text: &str| read(text, &[], &[]).unwrap_err();
        assert!(wrong("[sink]\ndisks = 70000\n").contains("F:2: sink.disks: \"70000\" is no count here"));
        assert!(wrong("[sink]\nafter = \"90\"\n").contains("F:2: sink.after: \"90\" is no duration"));
        assert!(wrong("[sink]\nnodes = [\"here\"]\n").contains("F:2: sink.nodes: invalid socket address"));
        assert!(wrong("[sink]\nnodes = \"10.0.0.1:1\"\n").contains("F:2: sink.nodes: write a list"));
        assert!(wrong("[sink]\nnode = []\n").contains("did you mean sink.nodes?"));
        let cold = "[node]\nrole = \"cold\"\n[sink]\nnodes = [\"10.0.0.1:1\"]\n";
        let lines = wrong(cold).lines().filter(|line| line.starts_with("sink: ")).count();
        assert_eq!(lines, 3, "role, nodes and disks");
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(text in "[a-z\\[\\]=\\. \"\n0-9]{0,80}") {
            let _ = read(&text, &[], &[]);
        }
    }
}
