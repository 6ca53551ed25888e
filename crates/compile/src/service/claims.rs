//! Who claims a frontend: nearly always one Service.

use sheetbend_model::types::ObjectKey;

/// Services that claim a frontend, sorted; the first has it.
#[derive(Debug)]
pub(super) enum Claims {
    One(ObjectKey),
    Many(Vec<ObjectKey>),
}

impl Claims {
    pub(super) fn all(&self) -> &[ObjectKey] {
        match self {
            Claims::One(key) => std::slice::from_ref(key),
            Claims::Many(keys) => keys,
        }
    }

    pub(super) fn first(&self) -> &ObjectKey {
        // `Many` has two at least.
        &self.all()[0]
    }

    pub(super) fn insert(&mut self, key: &ObjectKey) {
        let all = self.all();
        if let Err(index) = all.binary_search(key) {
            let mut keys = all.to_vec();
            keys.insert(index, key.clone());
            *self = Claims::Many(keys);
        }
    }

    /// Returns whether anybody is left; if nobody is, it stays as it was.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let mut rest = self.all().iter().filter(|other| *other != key).cloned();
        match (rest.next(), rest.next()) {
            (None, _) => return false,
            (Some(one), None) => *self = Claims::One(one),
            (Some(one), Some(other)) => {
                *self = Claims::Many([one, other].into_iter().chain(rest).collect());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, ObjectKey};

    #[test]
    fn the_first_by_name_has_it_and_the_last_leaves_nobody() {
        let [a, b, c] = ["a", "b", "c"].map(|name| ObjectKey::new("shop", name));
        let mut claims = Claims::One(b.clone());
        for key in [&c, &a, &b] {
            claims.insert(key);
        }
        assert_eq!(claims.all(), [a.clone(), b.clone(), c.clone()]);
        assert!(claims.remove(&a));
        assert_eq!(claims.first(), &b);
        assert!(claims.remove(&a), "it was not there");
        assert!(claims.remove(&c));
        assert!(matches!(&claims, Claims::One(key) if *key == b));
        assert!(!claims.remove(&b));
    }
}
