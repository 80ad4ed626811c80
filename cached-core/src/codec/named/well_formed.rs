//! Checks that MessagePack bytes are well formed, before a type's `Deserialize` receives any of the
//! data.

/// Returns true if the bytes are exactly one well-formed value. Returns false if a length in the
/// value exceeds the number of bytes after it, or if sequences and maps are nested more than
/// `max_depth` deep.
///
/// Extension types are refused, because this codec writes none.
pub(super) fn is_one_value(bytes: &[u8], max_depth: usize) -> bool {
    let mut scanner = MessagePackScanner { rest: bytes };
    // For each open sequence or map, the number of values that are still missing.
    let mut open: Vec<u64> = Vec::new();
    loop {
        let Some(members) = scanner.read_head() else { return false };
        if members > 0 {
            // Each member takes at least one byte.
            if open.len() == max_depth || members > scanner.rest.len() as u64 {
                return false;
            }
            open.push(members);
        } else {
            // The value is complete. If it is the last member of a sequence or map, then the
            // sequence or map is complete too.
            while let Some(missing) = open.last_mut() {
                *missing -= 1;
                if *missing > 0 {
                    break;
                }
                open.pop();
            }
        }
        if open.is_empty() {
            return scanner.rest.is_empty();
        }
    }
}

/// A scanner of MessagePack bytes. It reads the head of each value (its marker and its length) and
/// skips the value's data.
struct MessagePackScanner<'b> {
    rest: &'b [u8],
}

impl MessagePackScanner<'_> {
    /// Skips a whole scalar, or the head of a sequence or a map. Returns the number of members that
    /// follow: 0 for a scalar, and 2 for each entry of a map. Returns `None` for an extension type,
    /// for an unused marker, and if the bytes end too early.
    fn read_head(&mut self) -> Option<u64> {
        let marker = self.take_number(1)? as u8;
        let (members, data) = match marker {
            // Small integers, `nil`, `false` and `true`.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
            0x80..=0x8f => (2 * u64::from(marker & 0x0f), 0),
            0x90..=0x9f => (u64::from(marker & 0x0f), 0),
            // Short strings.
            0xa0..=0xbf => (0, u64::from(marker & 0x1f)),
            // Byte strings and strings.
            0xc4 | 0xd9 => (0, self.take_number(1)?),
            0xc5 | 0xda => (0, self.take_number(2)?),
            0xc6 | 0xdb => (0, self.take_number(4)?),
            // Numbers of 1, 2, 4 and 8 bytes.
            0xcc | 0xd0 => (0, 1),
            0xcd | 0xd1 => (0, 2),
            0xca | 0xce | 0xd2 => (0, 4),
            0xcb | 0xcf | 0xd3 => (0, 8),
            0xdc => (self.take_number(2)?, 0),
            0xdd => (self.take_number(4)?, 0),
            0xde => (2 * self.take_number(2)?, 0),
            0xdf => (2 * self.take_number(4)?, 0),
            // Extension types, and the one marker that MessagePack never uses.
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return None,
        };
        self.take(data)?;
        Some(members)
    }

    fn take(&mut self, length: u64) -> Option<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    /// Reads a big-endian number of this many bytes.
    fn take_number(&mut self, length: u64) -> Option<u64> {
        let bytes = self.take(length)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}
