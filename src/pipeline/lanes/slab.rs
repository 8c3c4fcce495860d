//! Values under small numbers that are used again.

use std::ops::{Index, IndexMut};

/// A growing table; each value in its own box, so that growing copies pointers only.
#[derive(Debug)]
pub struct Slab<V> {
    values: Vec<Option<Box<V>>>,
    free: Vec<u32>,
}

impl<V> Default for Slab<V> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

fn at(id: u32) -> usize {
    usize::try_from(id).expect("a pointer has 32 bits at least")
}

impl<V> Slab<V> {
    /// Adds a value.
    pub fn insert(&mut self, value: V) -> u32 {
        if let Some(id) = self.free.pop() {
            self.values[at(id)] = Some(Box::new(value));
            return id;
        }
        self.values.push(Some(Box::new(value)));
        u32::try_from(self.values.len() - 1).expect("memory ends long before four billion lanes")
    }

    /// Takes a value out.
    pub fn remove(&mut self, id: u32) -> Option<V> {
        let value = self.values.get_mut(at(id))?.take()?;
        self.free.push(id);
        Some(*value)
    }

    /// A value that may be gone.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        self.values.get_mut(at(id))?.as_deref_mut()
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.values.iter().filter_map(|value| value.as_deref())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<V> Index<u32> for Slab<V> {
    type Output = V;

    fn index(&self, id: u32) -> &V {
        self.values[at(id)].as_deref().expect("an id is held only while its value stays")
    }
}

impl<V> IndexMut<u32> for Slab<V> {
    fn index_mut(&mut self, id: u32) -> &mut V {
        self.values[at(id)].as_deref_mut().expect("an id is held only while its value stays")
    }
}
