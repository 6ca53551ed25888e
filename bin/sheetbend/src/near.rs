//! Names like one that nobody has.

use sheetbend_model::types::ObjectKey;
use sheetbend_shell::config::distance;

/// So many names are suggested for one that is unknown.
const NEAR: usize = 5;

/// Those of `known` with a name like `key`'s: those of the name in other namespaces first.
pub(crate) fn near<'a>(known: impl IntoIterator<Item = &'a ObjectKey>, key: &ObjectKey) -> Vec<String> {
    let mut near: Vec<(usize, &ObjectKey)> = Vec::new();
    for known in known {
        let changes = distance(&known.name, &key.name);
        let elsewhere = usize::from(known.namespace != key.namespace);
        let most = 1 + key.name.len() / 4;
        if changes + elsewhere <= most || changes == 0 {
            near.push((changes + elsewhere, known));
        }
    }
    near.sort();
    near.into_iter().take(NEAR).map(|(_, key)| key.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_like_the_unknown_one_are_told() {
        let known = [("shop", "web"), ("shop", "cache"), ("data", "cache"), ("data", "other")];
        let known = known.map(|(namespace, name)| ObjectKey::new(namespace, name));
        let near = |namespace, name| super::near(&known, &ObjectKey::new(namespace, name));
        assert_eq!(near("shop", "wbe"), Vec::<String>::new(), "two letters of three are another name");
        assert_eq!(near("shop", "webb"), ["shop/web"]);
        assert_eq!(near("default", "cache"), ["data/cache", "shop/cache"]);
        assert_eq!(near("data", "cach"), ["data/cache", "shop/cache"]);
        assert_eq!(near("data", "zzz"), Vec::<String>::new());
    }
}
