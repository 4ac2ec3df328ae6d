//! The parts of a page: header, meta, elements. Numbers are little-endian. It reads and writes fixed-size pieces and
//! knows nothing of files.

pub(super) const MAGIC: u32 = 0xED0C_DAED;
pub(super) const VERSION: u32 = 2;

/// What this code writes; others are read.
pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const PAGE_BYTES_MIN: usize = 1 << 10;
pub(super) const PAGE_BYTES_MAX: usize = 16 << 20;

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const META_BYTES: usize = 64;
pub(super) const ELEMENT_BYTES: usize = 16;
pub(super) const BUCKET_HEADER_BYTES: usize = 16;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREELIST: u16 = 0x10;

/// Set on a leaf's element whose value is a bucket.
pub(super) const BUCKET_FLAG: u32 = 0x01;

/// In place of the freelist's page: there is none, what is free must be found by a walk.
pub(super) const NO_FREELIST: u64 = u64::MAX;

/// A freelist's count that means: the count is the first of the numbers.
pub(super) const FREELIST_LONG: u16 = 0xFFFF;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub id: u64,
    pub flags: u16,
    pub count: u16,
    /// Pages that follow and belong to this one.
    pub overflow: u32,
}

impl Header {
    pub fn parse(bytes: &[u8]) -> Self {
        Self {
            id: number_8(bytes, 0),
            flags: number_2(bytes, 8),
            count: number_2(bytes, 10),
            overflow: number_4(bytes, 12),
        }
    }

    pub fn write(&self, target: &mut Vec<u8>) {
        target.extend(self.id.to_le_bytes());
        target.extend(self.flags.to_le_bytes());
        target.extend(self.count.to_le_bytes());
        target.extend(self.overflow.to_le_bytes());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_bytes: u32,
    pub root: u64,
    pub sequence: u64,
    pub freelist: u64,
    /// The number of pages: the first id that is not used yet.
    pub page_count: u64,
    pub transaction: u64,
}

impl Meta {
    /// Reads the part of a meta page that is behind its header.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if number_4(bytes, 0) != MAGIC {
            return Err("not a bbolt file");
        }
        if number_4(bytes, 4) != VERSION {
            return Err("another version of the format");
        }
        if number_8(bytes, 56) != fnv_64a(&bytes[..56]) {
            return Err("the meta page has another checksum");
        }
        Ok(Self {
            page_bytes: number_4(bytes, 8),
            root: number_8(bytes, 16),
            sequence: number_8(bytes, 24),
            freelist: number_8(bytes, 32),
            page_count: number_8(bytes, 40),
            transaction: number_8(bytes, 48),
        })
    }

    /// The whole page: which of the two it is follows from the transaction's number.
    pub fn page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE_BYTES);
        Header { id: self.transaction % 2, flags: META, count: 0, overflow: 0 }.write(&mut page);
        for number in [MAGIC, VERSION, self.page_bytes, 0] {
            page.extend(number.to_le_bytes());
        }
        for number in [self.root, self.sequence, self.freelist, self.page_count, self.transaction] {
            page.extend(number.to_le_bytes());
        }
        let checksum = fnv_64a(&page[HEADER_BYTES..]);
        page.extend(checksum.to_le_bytes());
        page.resize(PAGE_BYTES, 0);
        page
    }
}

/// Where an element's key and value lie, from the beginning of its page. The value follows the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub flags: u32,
    pub key_begin: usize,
    pub key_bytes: usize,
    pub value_bytes: usize,
    /// Of a branch only.
    pub child: u64,
}

impl Element {
    /// `table` is a page from its beginning, at least as far as its elements reach.
    pub fn parse(table: &[u8], position: usize, leaf: bool) -> Self {
        let begin = HEADER_BYTES + position * ELEMENT_BYTES;
        let place = |relative: u32| begin + relative as usize;
        if leaf {
            Self {
                flags: number_4(table, begin),
                key_begin: place(number_4(table, begin + 4)),
                key_bytes: number_4(table, begin + 8) as usize,
                value_bytes: number_4(table, begin + 12) as usize,
                child: 0,
            }
        } else {
            Self {
                flags: 0,
                key_begin: place(number_4(table, begin)),
                key_bytes: number_4(table, begin + 4) as usize,
                value_bytes: 0,
                child: number_8(table, begin + 8),
            }
        }
    }

    pub fn end(&self) -> usize {
        self.key_begin + self.key_bytes + self.value_bytes
    }
}

/// The value of a bucket's element: where its tree begins (0: behind this header), and bbolt's counter.
pub(super) fn bucket_header(root: u64, sequence: u64) -> [u8; BUCKET_HEADER_BYTES] {
    let mut bytes = [0; BUCKET_HEADER_BYTES];
    bytes[..8].copy_from_slice(&root.to_le_bytes());
    bytes[8..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

pub(super) fn number_2(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes were cut"))
}

pub(super) fn number_4(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

pub(super) fn number_8(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

fn fnv_64a(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_64a() {
        assert_eq!(fnv_64a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_page_and_a_header_come_back_as_they_were() {
        let meta = Meta { page_bytes: 4096, root: 3, sequence: 0, freelist: 2, page_count: 4, transaction: 1 };
        let page = meta.page();
        assert_eq!(page.len(), PAGE_BYTES);
        assert_eq!(Header::parse(&page), Header { id: 1, flags: META, count: 0, overflow: 0 });
        assert_eq!(Meta::parse(&page[HEADER_BYTES..]), Ok(meta));
    }
}
