//! Ranges of keys, found by a key inside them: a treap ordered by (start, end) in which every node knows the greatest end
//! below it. Equal ranges share a node. It holds for each range one number, the head of the caller's ring, and nothing else.

use std::cmp::Ordering;
use std::sync::Arc;

const NIL: u32 = u32::MAX;

/// A node of the tree; valid until it is removed.
pub(super) type NodeIndex = u32;

type End = Option<Arc<[u8]>>;

#[derive(Debug)]
struct Node {
    start: Arc<[u8]>,
    /// `None` is the end of all keys.
    end: End,
    head: u32,
    priority: u32,
    left: u32,
    right: u32,
    /// The node with the greatest end in this subtree.
    greatest: u32,
}

#[derive(Debug)]
pub(super) struct Intervals {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    /// State of the generator of priorities. Its seed is fixed: priorities only balance the tree.
    priorities: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NIL, priorities: 0x9e37_79b9 }
    }
}

fn compare_ends(left: Option<&[u8]>, right: Option<&[u8]>) -> Ordering {
    match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => left.cmp(right),
    }
}

impl Intervals {
    /// The node of this range, and its ring's head if the range was known. A new node gets `head` as its ring.
    pub(super) fn find_or_insert(
        &mut self,
        start: &Arc<[u8]>,
        end: Option<&Arc<[u8]>>,
        head: u32,
    ) -> (NodeIndex, Option<u32>) {
        let mut index = self.root;
        while index != NIL {
            let node = &self.nodes[index as usize];
            match self.compare(start, end.map(|end| &end[..]), index) {
                Ordering::Equal => return (index, Some(node.head)),
                Ordering::Less => index = node.left,
                Ordering::Greater => index = node.right,
            }
        }
        let new = self.allocate(Arc::clone(start), end.cloned(), head);
        self.root = self.insert_below(self.root, new);
        (new, None)
    }

    pub(super) fn head_mut(&mut self, node: NodeIndex) -> &mut u32 {
        &mut self.nodes[node as usize].head
    }

    pub(super) fn remove(&mut self, node: NodeIndex) {
        self.root = self.remove_below(self.root, node);
        let removed = &mut self.nodes[node as usize];
        removed.start = Arc::from([]);
        removed.end = None;
        self.free.push(node);
    }

    /// Calls `found` with the head of every range that contains the key.
    pub(super) fn stab(&self, key: &[u8], mut found: impl FnMut(u32)) {
        self.stab_below(self.root, key, &mut found);
    }

    fn stab_below(&self, index: u32, key: &[u8], found: &mut impl FnMut(u32)) {
        if index == NIL {
            return;
        }
        let node = &self.nodes[index as usize];
        let beyond = |end: &End| end.as_ref().is_none_or(|end| key < &end[..]);
        if !beyond(&self.nodes[node.greatest as usize].end) {
            return;
        }
        self.stab_below(node.left, key, found);
        if node.start[..] <= *key {
            if beyond(&node.end) {
                found(node.head);
            }
            self.stab_below(node.right, key, found);
        }
    }

    fn allocate(&mut self, start: Arc<[u8]>, end: End, head: u32) -> u32 {
        // xorshift32
        self.priorities ^= self.priorities << 13;
        self.priorities ^= self.priorities >> 17;
        self.priorities ^= self.priorities << 5;
        let node = Node { start, end, head, priority: self.priorities, left: NIL, right: NIL, greatest: NIL };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("a thread has fewer than 2^32 ranges")
            }
        };
        self.nodes[index as usize].greatest = index;
        index
    }

    fn compare(&self, start: &[u8], end: Option<&[u8]>, index: u32) -> Ordering {
        let node = &self.nodes[index as usize];
        start.cmp(&node.start[..]).then_with(|| compare_ends(end, node.end.as_deref()))
    }

    fn compare_nodes(&self, left: u32, right: u32) -> Ordering {
        let node = &self.nodes[left as usize];
        self.compare(&node.start, node.end.as_deref(), right)
    }

    /// Recomputes the greatest end after the children changed.
    fn refresh(&mut self, index: u32) {
        let (left, right) = (self.nodes[index as usize].left, self.nodes[index as usize].right);
        let mut greatest = index;
        for child in [left, right] {
            if child == NIL {
                continue;
            }
            let candidate = self.nodes[child as usize].greatest;
            let candidate_end = self.nodes[candidate as usize].end.as_deref();
            if compare_ends(candidate_end, self.nodes[greatest as usize].end.as_deref()) == Ordering::Greater {
                greatest = candidate;
            }
        }
        self.nodes[index as usize].greatest = greatest;
    }

    fn insert_below(&mut self, root: u32, new: u32) -> u32 {
        if root == NIL {
            return new;
        }
        if self.nodes[new as usize].priority > self.nodes[root as usize].priority {
            let (left, right) = self.split(root, new);
            self.nodes[new as usize].left = left;
            self.nodes[new as usize].right = right;
            self.refresh(new);
            return new;
        }
        if self.compare_nodes(new, root) == Ordering::Less {
            let child = self.insert_below(self.nodes[root as usize].left, new);
            self.nodes[root as usize].left = child;
        } else {
            let child = self.insert_below(self.nodes[root as usize].right, new);
            self.nodes[root as usize].right = child;
        }
        self.refresh(root);
        root
    }

    /// Cuts a subtree into what lies below the pivot and what lies above it; the pivot itself is not in it.
    fn split(&mut self, root: u32, pivot: u32) -> (u32, u32) {
        if root == NIL {
            return (NIL, NIL);
        }
        if self.compare_nodes(root, pivot) == Ordering::Less {
            let (left, right) = self.split(self.nodes[root as usize].right, pivot);
            self.nodes[root as usize].right = left;
            self.refresh(root);
            (root, right)
        } else {
            let (left, right) = self.split(self.nodes[root as usize].left, pivot);
            self.nodes[root as usize].left = right;
            self.refresh(root);
            (left, root)
        }
    }

    fn remove_below(&mut self, root: u32, target: u32) -> u32 {
        assert_ne!(root, NIL, "a removed range is in the tree");
        if root == target {
            let (left, right) = (self.nodes[root as usize].left, self.nodes[root as usize].right);
            return self.join(left, right);
        }
        if self.compare_nodes(target, root) == Ordering::Less {
            let child = self.remove_below(self.nodes[root as usize].left, target);
            self.nodes[root as usize].left = child;
        } else {
            let child = self.remove_below(self.nodes[root as usize].right, target);
            self.nodes[root as usize].right = child;
        }
        self.refresh(root);
        root
    }

    /// Joins two subtrees, all of the first below all of the second.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL || right == NIL {
            return if left == NIL { right } else { left };
        }
        if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            let child = self.join(self.nodes[left as usize].right, right);
            self.nodes[left as usize].right = child;
            self.refresh(left);
            left
        } else {
            let child = self.join(left, self.nodes[right as usize].left);
            self.nodes[right as usize].left = child;
            self.refresh(right);
            right
        }
    }
}
