//! The fields of a packet descriptor that the driver touches, by their offsets in the headers that are installed. Newer
//! DPDKs keep some of them in unions, which bindings name differently in each version; only this file knows.
//!
//! Every function here asks for a pointer to a descriptor that the caller owns.

use crate::{
    TACHYON_BUF_ADDR, TACHYON_BUF_IOVA, TACHYON_BUF_LEN, TACHYON_DATA_LEN, TACHYON_DATA_OFF, TACHYON_NB_SEGS,
    TACHYON_NEXT, TACHYON_OL_FLAGS, TACHYON_PKT_LEN, TACHYON_TX_OFFLOAD, rte_mbuf,
};

macro_rules! field {
    ($get:ident, $set:ident, $offset:ident, $kind:ty, $what:literal) => {
        #[doc = $what]
        ///
        /// # Safety
        /// `m` points to a descriptor that the caller owns.
        #[inline(always)]
        #[must_use]
        pub unsafe fn $get(m: *const rte_mbuf) -> $kind {
            m.byte_add($offset as usize).cast::<$kind>().read()
        }

        #[doc = concat!("Sets: ", $what)]
        ///
        /// # Safety
        /// `m` points to a descriptor that the caller owns.
        #[inline(always)]
        pub unsafe fn $set(m: *mut rte_mbuf, value: $kind) {
            m.byte_add($offset as usize).cast::<$kind>().write(value);
        }
    };
}

field!(buf_addr, set_buf_addr, TACHYON_BUF_ADDR, *mut u8, "Where its memory starts.");
field!(buf_iova, set_buf_iova, TACHYON_BUF_IOVA, u64, "The same as the device sees it.");
field!(data_off, set_data_off, TACHYON_DATA_OFF, u16, "Bytes from there to the packet.");
field!(nb_segs, set_nb_segs, TACHYON_NB_SEGS, u16, "Pieces of the packet.");
field!(ol_flags, set_ol_flags, TACHYON_OL_FLAGS, u64, "What the device did or shall do.");
field!(pkt_len, set_pkt_len, TACHYON_PKT_LEN, u32, "Bytes of the packet, all pieces together.");
field!(data_len, set_data_len, TACHYON_DATA_LEN, u16, "Bytes of this piece.");
field!(buf_len, set_buf_len, TACHYON_BUF_LEN, u16, "Bytes of its memory.");
field!(next, set_next, TACHYON_NEXT, *mut rte_mbuf, "The next piece, or null.");
field!(tx_offload, set_tx_offload, TACHYON_TX_OFFLOAD, u64, "Header lengths, for a device that completes checksums.");
