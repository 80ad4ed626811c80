use super::*;
use crate::config::Config;

fn config(url: &str) -> Result<Option<Config>, String> {
    let builder = CacheBuilder::from_url(url).map_err(|error| error.to_string())?;
    let config = builder.map(CacheBuilder::into_config).transpose();
    config.map_err(|error| error.to_string())
}

#[test]
fn off_and_local_need_no_server() {
    assert!(config("off").expect("the URL is valid").is_none());
    for url in ["", "local:", " local: "] {
        let config = config(url).expect("the URL is valid").expect("the cache is on");
        assert_eq!(config.local_capacity, 64 << 20, "`{url}` has the default capacity");
    }
}

#[test]
fn a_local_url_has_the_common_settings() {
    let config_of_local = config("local:?local_capacity=1GiB&ttl=90s&jitter=0.5");
    let settings = config_of_local.expect("the URL is valid").expect("the cache is on");
    assert_eq!(settings.local_capacity, 1 << 30);
    assert_eq!(settings.default_ttl, std::time::Duration::from_secs(90));
    for (url, part) in [
        ("local:?timeout=50ms", "`timeout` is not a setting of `local:`"),
        ("local:?local_capacity", "`local_capacity` has no value"),
        ("local:?ttl=30m1h", "`ttl=30m1h`"),
        ("local:64MiB", "`local:?local_capacity=64MiB`"),
    ] {
        let error = config(url).expect_err(url);
        assert!(error.contains(part) && !error.contains('\n'), "{url}: {error}");
    }
}

#[cfg(not(feature = "memcached"))]
#[test]
fn a_memcached_url_names_the_missing_feature() {
    let mistake = |url| config(url).expect_err(url);
    let error = mistake("memcache://a:11211?namespace=shop");
    let has_advice = error.contains("feature `memcached`") && error.contains("`local:`");
    assert!(has_advice, "the error says what to do: {error}");
    assert!(!error.contains('\n'), "the error is one line: {error}");
    assert_eq!(mistake("redis://a:1"), "`redis://a:1` is not a cache; write `local:` or `off`");
    for url in ["memcache://me:secret@a:1", "redis://me:secret@a:1"] {
        let error = mistake(url);
        let hides_password = error.contains("`…@a:1`") && !error.contains("secret");
        assert!(hides_password, "the error hides the password: {error}");
    }
}

#[cfg(feature = "memcached")]
mod memcached {
    use std::time::Duration;

    use super::config;

    #[test]
    fn every_setting_of_a_memcached_url_is_read() {
        let url = "memcache://a:11211,b:11212?namespace=shop&timeout=50ms&lease=6s&lease_wait=1s&jitter=0.1&ttl=1h30m&local_capacity=64MiB";
        let config = config(url).expect("the URL is valid").expect("the cache is on");
        assert_eq!(config.servers, ["a:11211", "b:11212"]);
        assert_eq!(config.namespace.as_deref(), Some("shop"));
        assert_eq!(config.remote_timeout, Duration::from_millis(50));
        assert_eq!(config.lease, Some(Duration::from_secs(6)));
        assert_eq!(config.default_ttl, Duration::from_secs(5400));
        assert_eq!(config.local_capacity, 64 << 20);
    }

    #[test]
    fn a_mistake_names_the_wrong_part() {
        for (url, part) in [
            ("redis://a:1", "`redis://a:1`"),
            ("memcached://a:1", "write `memcache://a:1`, without the `d`"),
            ("OFF", "write `off`"),
            ("local", "write `local:`"),
            ("\"memcache://a:1\"", "in quotes; remove them"),
            ("'off'", "in quotes; remove them"),
            ("memcache://", "the address of a server is empty"),
            ("memcache://a", "server `a` has no port"),
            ("memcache://a:11211,", "the address of a server is empty"),
            ("memcache://a:1&namespace=x", "`a:1&namespace=x` has settings"),
            ("memcache://a:1;timeout=1s", "`a:1;timeout=1s` has settings"),
            ("memcache://a:1/0?namespace=x", "`a:1/0` has a path"),
            ("memcache://a:99999", "`a:99999` has a port"),
            ("memcache://a:11211,a:11211", "`a:11211` is given twice"),
            ("memcache://a:1/?timeout=50", "`timeout=50`"),
            ("memcache://a:1?timeout=0ms", "timeout is zero"),
            ("memcache://a:1?timeout=2h", "timeout 7200s"),
            ("memcache://a:1?lease_wait=2h", "over an hour"),
            ("memcache://a:1?tiemout=50ms", "`tiemout`"),
            ("memcache://a:1?namespace=My Shop", "namespace `My Shop`"),
            ("memcache://a:1?namespace", "`namespace` has no value"),
            ("memcache://a:1?timeout=1s&timeout=2s", "`timeout` is given twice"),
            ("memcache://a:1?jitter=2", "jitter 2"),
            ("memcache://a:1?jitter=NaN", "jitter NaN"),
            ("memcache://a:1?lease=10ms", "lease is under a second"),
            ("memcache://a:1?ttl=30m1h", "`ttl=30m1h`"),
            ("memcache://a:1?local_capacity=64MB", "`local_capacity=64MB`"),
            ("memcache://a:1?ttl=9999999999999h", "`ttl=9999999999999h`"),
            ("memcache://user@a:1", "`…@a:1` has a user or a password"),
            ("memcache://fe80::1:11211", "write `[fe80::1]:11211`"),
            ("memcache://a:+5", "`a:+5` has a port"),
            ("memcache://a:01", "`a:01` has a port"),
            ("memcache://a:", "`a:` has a port"),
            ("memcache://a:1٣", "`a:1٣` has a port"),
            ("memcache://[]:5", "`[]:5` has a host"),
            ("memcache://[x]:5", "`[x]:5` has a host"),
            ("memcache://[127.0.0.1]:5", "`[127.0.0.1]:5` has a host"),
            ("memcache://[::1:5", "a host that cannot be told from its port"),
            ("memcache://[a:5", "`[a:5` has a host"),
            ("memcache://a]:5", "`a]:5` has a host"),
        ] {
            let error = config(url).expect_err(url);
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains('\n'), "{url}: {error}");
        }
    }

    #[test]
    fn host_names_and_ip_addresses_are_accepted() {
        for address in ["a:1", "cache-a.shop.internal:11211", "10.0.0.1:65535", "[::1]:11211"] {
            let config =
                config(&format!("memcache://{address}")).expect(address).expect("the cache is on");
            assert_eq!(config.servers, [address]);
        }
    }

    #[test]
    fn a_mistake_never_shows_a_password() {
        for url in [
            "memcache://me:secret@a:1",
            "memcache://a:1,me:secret@b:1",
            "memcache://me:secret,secret@a:1",
            "memcache://me:secret?secret@a:1",
            "memcache://me:secret/secret@a:1",
            "memcache://me:secret@secret@a:1?namespace=shop",
            "redis://me:secret@a:1",
            "me:secret@a:1",
        ] {
            let error = config(url).expect_err(url);
            assert!(error.contains("@a:1") || error.contains("@b:1"), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains('\n'), "{url}: {error}");
        }
        let error = crate::config::memcached::check_server("me:secret@a:1")
            .expect_err("an address must not contain an `@`")
            .to_string();
        let hides_password = error.contains("`…@a:1` has a user") && !error.contains("secret");
        assert!(hides_password, "the error hides the password: {error}");
    }
}
