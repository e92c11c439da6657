//! `thermocline config print|check`, and the settings of a node for those who start one.

pub(crate) mod cluster;
pub(crate) mod cold;
mod load;
mod settings;
pub(crate) mod sink;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::units::size_text;
use crate::{disk, doctor};
use load::Loaded;
pub(crate) use settings::{LISTEN_DEFAULT, Role, SECTIONS, SETTINGS, Settings};

/// Where settings come from.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sources {
    /// Config file (TOML)
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_CONFIG")]
    config: Option<PathBuf>,
    /// A setting that overrides file and environment, such as network.listen=127.0.0.1:7421
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write SECTION.KEY=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Sources {
    /// Reads all sources.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        // A variable that is not UTF-8 is none of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        load::load(self.config.as_deref(), environment, &self.set)
    }
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Every setting with its reason and where its value comes from, as a config file
    Print(ShowArgs),
    /// What is wrong with the settings, and the memory they lay out
    Check(ShowArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    sources: Sources,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

/// `thermocline config`.
///
/// # Errors
/// All that is wrong with the settings.
pub(crate) fn run(args: &ConfigArgs) -> Result<Exit, Failure> {
    match &args.verb {
        ConfigVerb::Print(args) => print(&args.sources.load()?, args.json),
        ConfigVerb::Check(args) => check(&args.sources.load()?, args.json),
    }
}

fn print(loaded: &Loaded, json: bool) -> Result<Exit, Failure> {
    if json {
        let all = SETTINGS.iter().map(|setting| {
            json!({
                "setting": setting.name(), "value": (setting.get)(&loaded.settings), "reason": setting.reason,
                "origin": loaded.origin(setting).to_string(), "variable": setting.variable(),
            })
        });
        output::line(&serde_json::Value::from_iter(all).to_string())?;
        return Ok(Exit::Done);
    }
    let mut out = Output::new();
    for section in SECTIONS {
        out.line(&format!("[{section}]"))?;
        for setting in SETTINGS.iter().filter(|setting| setting.section == section) {
            out.line(&format!("# {}", setting.reason))?;
            let line = format!("{} = {}", setting.key, setting.toml_value(&loaded.settings));
            // What is not said stays unsaid: an empty path or address is no value to keep in a file.
            let quiet = (setting.get)(&loaded.settings).is_empty();
            out.line(&format!("{}{line}  # {}", if quiet { "# " } else { "" }, loaded.origin(setting)))?;
        }
        out.line("")?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// What zstd keeps in memory for each dictionary, beside its bytes.
const DICTIONARY_EXTRA_BYTES: usize = 27 << 10;

fn check(loaded: &Loaded, json: bool) -> Result<Exit, Failure> {
    let settings = &loaded.settings;
    let mut notes = Vec::new();
    let core_count = if settings.role == Role::Cold {
        if let Err(failure) = crate::cold::config(settings) {
            notes.push(failure.to_string());
        }
        Some(settings.cold.core_count(doctor::processor_count()))
    } else if settings.disk_path.is_empty() {
        notes.push("disk.path is not set: `serve` needs it".to_owned());
        None
    } else {
        match disk::superblock(&settings.disk_path) {
            Ok(superblock) => {
                settings.cluster.map(&superblock)?;
                Some(superblock.shard_count)
            }
            Err(failure) => {
                notes.push(failure.to_string());
                None
            }
        }
    };
    let told = core_count.is_some();
    let core_count = core_count.unwrap_or_else(doctor::processor_count);
    let parts = match settings.role {
        Role::Cold => settings.cold.limits.memory(usize::from(core_count)),
        _ => settings.limits.memory(usize::from(core_count)),
    };
    let per_core: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    let per_node = per_core * usize::from(core_count);
    if let Some(available) = doctor::memory_available_bytes().filter(|available| *available < per_node as u64)
    {
        let available = size_text(available >> 20 << 20);
        let lower = match settings.role {
            Role::Cold => "cold.arena_bytes or cold.waiting_bytes_max",
            _ => "memtable_bytes or arena_bytes",
        };
        notes.push(format!("only {available} of memory are available: lower {lower}"));
    }
    if json {
        let parts: serde_json::Map<String, serde_json::Value> =
            parts.iter().map(|(part, bytes)| ((*part).to_owned(), json!(bytes))).collect();
        let all = json!({
            "core_count": core_count, "core_count_of_disk": told, "bytes_per_core": per_core,
            "bytes_per_node": per_node, "parts": parts, "notes": notes,
        });
        output::line(&all.to_string())?;
    } else {
        let mut out = Output::new();
        out.line("memory of a core, laid out at start:")?;
        for (part, bytes) in parts {
            out.line(&format!("  {part:<32} {:>12}", mebibytes(bytes)))?;
        }
        out.line(&format!("  {:<32} {:>12}", "one core", mebibytes(per_core)))?;
        let whose = match settings.role {
            Role::Cold => "as [cold] and its disks say",
            _ if told => "as the disk is cut",
            _ => "as this machine has processors",
        };
        out.line(&format!("  {:<32} {:>12}", format!("{core_count} cores, {whose}"), mebibytes(per_node)))?;
        let dictionary = settings.limits.sealed_dictionary_bytes;
        if dictionary > 0 && settings.role != Role::Cold {
            let each = size_text((dictionary + DICTIONARY_EXTRA_BYTES) as u64);
            out.line(&format!(
                "beside that, each sealed window keeps its dictionary in memory, at most {each}"
            ))?;
        }
        for note in &notes {
            out.line(&format!("note: {note}"))?;
        }
        out.line("the settings hold together")?;
        out.finish()?;
    }
    Ok(Exit::Done)
}

fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
