//! A set of pages as one bit for each: 32 KiB for every GiB of file.

#[derive(Debug)]
pub(super) struct PageSet {
    bits: Vec<u64>,
}

impl PageSet {
    /// Takes pages below `page_count`, which the caller has compared with the length of the file.
    pub fn new(page_count: u64) -> Self {
        let words = usize::try_from(page_count.div_ceil(64)).expect("a file's pages can be counted");
        Self { bits: vec![0; words] }
    }

    /// False: it was there already.
    pub fn insert(&mut self, page: u64) -> bool {
        let (word, bit) = (&mut self.bits[(page / 64) as usize], 1 << (page % 64));
        let absent = *word & bit == 0;
        *word |= bit;
        absent
    }

    pub fn contains(&self, page: u64) -> bool {
        self.bits[(page / 64) as usize] & (1 << (page % 64)) != 0
    }
}
