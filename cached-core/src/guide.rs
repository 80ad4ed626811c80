//! The guide: one chapter for each question.
//!
//! 1. [`start`]: how do I cache a call?
//! 2. [`options`]: what can I write in the attribute?
//! 3. [`keys`]: when do two calls share an entry?
//! 4. [`values`]: which values can be cached, and do they come back as they were?
//! 5. [`lifetimes`]: how long does an entry live?
//! 6. [`entries`]: how do I look at, add, replace or remove an entry?
//! 7. [`requests`]: which cache does a call use?
//! 8. [`memcached`]: what do I set in production, and which logs and threads will I see?
//! 9. [`consistency`]: what can go wrong, and which values may a call then return?
//! 10. [`testing`]: how do I test code that is cached?
//! 11. [`ledger`]: what is cached here, and why?
//! 12. [`performance`]: what does a call cost?
//! 13. [`events`]: what is the cache doing?
//! 14. [`on_call`]: what does a figure in the statistics mean, and what do I do about it?
//! 15. [`console`]: what is the cache doing right now?
//! 16. [`telemetry`]: how do I get metrics and traces?
//! 17. [`errors`] and [`compile_errors`]: what does this message mean?
//! 18. [`faq`]: short answers to common questions.
//! 19. [`security`]: what does the library protect against, and how do I report a vulnerability?
//! 20. [`changelog`]: what changed?

// The chapters are Markdown files: all files in `docs/guide`, and three files from other folders.
// Each file ends with link definitions whose targets are file paths. `links.md` defines the same
// labels with module paths, and is included before each chapter. In rustdoc, the first definition
// of a label takes effect. So a link in the documentation leads to a module, and a link in the
// Markdown file leads to a file.

/// Declares one module for each chapter.
macro_rules! chapters {
    ($($(#[$reference:meta])* $module:ident = $file:literal,)*) => {
        $(
            #[doc = include_str!("guide/links.md")]
            #[doc = include_str!(concat!("../docs/", $file))]
            $(#[$reference])*
            pub mod $module {}
        )*

        #[cfg(test)]
        const CHAPTERS: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("../docs/", $file)))),*];
    };
}

chapters! {
    ///
    /// See also in the API reference: [`coordinator_cached`](crate::coordinator_cached),
    /// [`Cache`](crate::Cache).
    start = "guide/start.md",
    options = "guide/options.md",
    keys = "guide/keys.md",
    ///
    /// See also in the API reference: [`CachedValue`](crate::CachedValue),
    /// [`Returned`](crate::Returned).
    values = "guide/values.md",
    lifetimes = "guide/lifetimes.md",
    ///
    /// See also in the API reference: [`CacheEntry`](crate::CacheEntry),
    /// [`CachedResponse`](crate::CachedResponse), [`first_found`](crate::first_found).
    entries = "guide/entries.md",
    ///
    /// See also in the API reference: [`RequestScope`](crate::RequestScope),
    /// [`Cache::scope`](crate::Cache::scope).
    requests = "guide/requests.md",
    ///
    /// See also in the API reference: [`CacheBuilder`](crate::CacheBuilder),
    /// [`Cache::from_env`](crate::Cache::from_env).
    memcached = "guide/memcached.md",
    consistency = "guide/consistency.md",
    console = "guide/console.md",
    testing = "guide/testing.md",
    ///
    /// See also in the API reference: [`ledger`](crate::ledger()), [`Ledger`](crate::Ledger).
    ledger = "guide/ledger.md",
    performance = "guide/performance.md",
    ///
    /// See also in the API reference: [`event`](crate::event), [`Stats`](crate::Stats),
    /// [`Cache::servers`](crate::Cache::servers), [`Cache::health`](crate::Cache::health).
    events = "guide/events.md",
    ///
    /// See also in the API reference: [`Cache::stats`](crate::Cache::stats),
    /// [`Cache::servers`](crate::Cache::servers), [`Cache::health`](crate::Cache::health).
    on_call = "guide/on_call.md",
    telemetry = "guide/telemetry.md",
    ///
    /// See also in the API reference: [`ConfigError`](crate::ConfigError),
    /// [`InstallError`](crate::InstallError), [`CacheError`](crate::CacheError),
    /// [`Ledger::audit`](crate::Ledger::audit).
    errors = "guide/errors.md",
    compile_errors = "errors.md",
    faq = "guide/faq.md",
    security = "../SECURITY.md",
    changelog = "../CHANGELOG.md",
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::CHAPTERS;

    const README: &str = include_str!("../README.md");

    /// Returns the link definitions `[label]: target` of a page.
    fn definitions(page: &str) -> impl Iterator<Item = (&str, &str)> {
        let defined = page.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
        defined.filter(|(label, _)| !label.contains(']'))
    }

    /// Returns the path of each page, relative to the folder `docs`, and the text of the page.
    fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
        CHAPTERS.iter().copied().chain([("../README.md", README)])
    }

    /// Returns true if a heading of the page has this anchor. GitHub and rustdoc make the anchor of
    /// the heading's text.
    fn has_anchor(page: &str, anchor: &str) -> bool {
        let of = |heading: &str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
        };
        page.lines().any(|line| line.starts_with('#') && of(line) == anchor)
    }

    #[test]
    fn relative_links_have_a_module_and_a_file() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").canonicalize();
        let docs = docs.expect("docs is there");
        let modules: Vec<_> = definitions(include_str!("guide/links.md")).collect();
        for (file, page) in pages() {
            for (label, target) in definitions(page) {
                let (path, heading) = target.split_once('#').unwrap_or((target, ""));
                let linked = docs.join(file).parent().expect("a file is in a folder").join(path);
                assert!(linked.exists(), "{file}: {target} exists");
                let text = || std::fs::read_to_string(&linked).expect("the page can be read");
                assert!(heading.is_empty() || has_anchor(&text(), heading), "{file}: {target}");
                assert!(modules.iter().any(|(of, _)| *of == label), "links.md has [{label}]");
                assert!(page.contains(&format!("][{label}]")), "{file}: [{label}] is used");
            }
            for inline in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                match inline.strip_prefix('#') {
                    Some(heading) => {
                        assert!(has_anchor(page, heading), "{file}: {inline} is there")
                    }
                    None => assert!(inline.starts_with("https://"), "{file}: {inline} has a label"),
                }
            }
        }
    }

    #[test]
    fn each_link_used_is_defined() {
        for (file, page) in pages() {
            for used in page.split("][").skip(1).filter_map(|rest| rest.split(']').next()) {
                assert!(
                    definitions(page).any(|(label, _)| label == used),
                    "{file}: [{used}] is defined"
                );
            }
        }
    }

    /// Returns the text of each source file below a folder.
    fn sources(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("the folder can be read").path());
        let read = |path: PathBuf| match path.is_dir() {
            true => sources(&path),
            false => vec![std::fs::read_to_string(path).expect("sources are text")],
        };
        paths.flat_map(read).collect()
    }

    #[test]
    fn each_thread_is_described() {
        let (_, page) = CHAPTERS
            .iter()
            .find(|(file, _)| *file == "guide/memcached.md")
            .expect("the chapter exists");
        let start = concat!(".name(", "\"cached-");
        for source in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
            for name in source.split(start).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(
                    page.contains(&format!("`cached-{name}`")),
                    "the chapter describes the thread cached-{name}"
                );
                assert!(name.len() <= 8, "Linux does not cut the name cached-{name}");
            }
        }
    }

    #[test]
    fn each_chapter_file_is_a_module() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide");
        for entry in std::fs::read_dir(folder).expect("docs/guide is there") {
            let name = entry.expect("the folder can be read").file_name();
            let file = format!("guide/{}", name.to_string_lossy());
            assert!(CHAPTERS.iter().any(|(chapter, _)| *chapter == file), "{file} is declared");
        }
    }
}
