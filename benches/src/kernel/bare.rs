//! The floor: a program that only looks one key up, in a map of a given type and size.

use anyhow::{Context, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};
use object::write::{Object, Relocation, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope, elf,
};

use super::program::Program;

/// `BPF_MAP_TYPE_HASH`.
const HASH: u32 = 1;
/// `BPF_MAP_TYPE_LPM_TRIE`.
const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

/// The program with its map.
pub(crate) struct Bare {
    pub(crate) program: Program,
    ebpf: Ebpf,
}

impl Bare {
    /// A program that does nothing: what measuring itself costs.
    pub(crate) fn empty() -> anyhow::Result<Self> {
        // mov64 r0, 1; exit
        Self::load(&object(&[[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]], None)?)
    }

    /// A hash of `max_entries` with these keys. The program reads its key from the start of the packet.
    pub(crate) fn hash<K: Pod, V: Pod>(max_entries: u32, value: V, keys: &[K]) -> anyhow::Result<Self> {
        let mut bare = Self::load(&lookup(HASH, size_of::<K>(), size_of::<V>(), max_entries)?)?;
        let mut map: HashMap<_, K, V> = HashMap::try_from(bare.map()?)?;
        keys.iter().try_for_each(|key| map.insert(key, value, 0)).context("filling the hash")?;
        Ok(bare)
    }

    /// A longest-prefix map of `max_entries` with these keys (bits, data).
    pub(crate) fn lpm<K: Pod, V: Pod>(max_entries: u32, value: V, keys: &[(u32, K)]) -> anyhow::Result<Self> {
        let mut bare = Self::load(&lookup(LPM_TRIE, 4 + size_of::<K>(), size_of::<V>(), max_entries)?)?;
        let mut map: LpmTrie<_, K, V> = LpmTrie::try_from(bare.map()?)?;
        keys.iter()
            .try_for_each(|(bits, data)| map.insert(&Key::new(*bits, *data), value, 0))
            .context("filling the longest-prefix map")?;
        Ok(bare)
    }

    fn map(&mut self) -> anyhow::Result<&mut Map> {
        self.ebpf.map_mut("TABLE").context("the object has no map")
    }

    fn load(object: &[u8]) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("loading the bare program")?;
        let program: &mut SchedClassifier =
            ebpf.program_mut("bare").context("the object has no program")?.try_into()?;
        program.load().context("verifying the bare program")?;
        let id = program.info()?.id();
        let pin = format!("/sys/fs/bpf/bare-{id}");
        program.pin(&pin).with_context(|| format!("pinning {pin}"))?;
        Ok(Self { program: Program::open(pin.as_ref())?, ebpf })
    }
}

/// skb_load_bytes(skb, 0, key); return map_lookup(TABLE, key) != NULL.
fn lookup(kind: u32, key: usize, value: usize, max_entries: u32) -> anyhow::Result<Vec<u8>> {
    let size = u8::try_from(key)?;
    let place = (-i32::from(size.next_multiple_of(8))).to_le_bytes();
    let [a, b, c, d] = place;
    let code = [
        [0xb7, 0x02, 0, 0, 0, 0, 0, 0],    // r2 = 0
        [0xbf, 0xa3, 0, 0, 0, 0, 0, 0],    // r3 = r10
        [0x07, 0x03, 0, 0, a, b, c, d],    // r3 += place of the key
        [0xb7, 0x04, 0, 0, size, 0, 0, 0], // r4 = its size
        [0x85, 0x00, 0, 0, 26, 0, 0, 0],   // call skb_load_bytes
        [0x18, 0x01, 0, 0, 0, 0, 0, 0],    // r1 = TABLE
        [0x00, 0x00, 0, 0, 0, 0, 0, 0],
        [0xbf, 0xa2, 0, 0, 0, 0, 0, 0], // r2 = r10
        [0x07, 0x02, 0, 0, a, b, c, d], // r2 += place of the key
        [0x85, 0x00, 0, 0, 1, 0, 0, 0], // call map_lookup_elem
        [0x15, 0x00, 1, 0, 0, 0, 0, 0], // if r0 == 0 goto exit
        [0xb7, 0x00, 0, 0, 1, 0, 0, 0], // r0 = 1
        [0x95, 0x00, 0, 0, 0, 0, 0, 0], // exit
    ];
    // struct bpf_map_def of the `maps` section, with aya's two optional fields.
    let definition = [kind, u32::try_from(key)?, u32::try_from(value)?, max_entries, NO_PREALLOC, 0, 0];
    object(&code, Some((definition, 5)))
}

/// An ELF object of one classifier, and a map whose address instruction `.1` loads.
fn object(code: &[[u8; 8]], map: Option<([u32; 7], u64)>) -> anyhow::Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let text = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    let bytes = code.concat();
    let size = bytes.len() as u64;
    object.append_section_data(text, &bytes, 8);
    object.add_symbol(symbol("bare", 0, size, SymbolKind::Text, SymbolSection::Section(text)));
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    if let Some((definition, instruction)) = map {
        let maps = object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
        let bytes: Vec<u8> = definition.iter().flat_map(|word| word.to_le_bytes()).collect();
        object.append_section_data(maps, &bytes, 4);
        let size = bytes.len() as u64;
        let table =
            object.add_symbol(symbol("TABLE", 0, size, SymbolKind::Data, SymbolSection::Section(maps)));
        let flags = RelocationFlags::Elf { r_type: elf::R_BPF_64_64 };
        object
            .add_relocation(text, Relocation { offset: instruction * 8, symbol: table, addend: 0, flags })?;
    }
    match object.write() {
        Ok(bytes) => Ok(bytes),
        Err(error) => bail!("writing the bare object: {error}"),
    }
}

fn symbol(name: &str, value: u64, size: u64, kind: SymbolKind, section: SymbolSection) -> Symbol {
    Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size,
        kind,
        scope: SymbolScope::Linkage,
        weak: false,
        section,
        flags: SymbolFlags::None,
    }
}
