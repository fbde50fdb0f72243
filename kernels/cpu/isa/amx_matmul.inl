// Products of activations with panels in the processor's tiles (Intel AMX-INT8: Intel 64 and IA-32
// Architectures Optimization Reference Manual, chapter 20): one instruction multiplies a block of
// 32 columns of up to 16 tokens with 16 rows. It leaves the integers that MultiplyTile has in
// registers, and the same function scales and adds them in the same order. So results are equal bit
// for bit, with any number of tokens.
//
// A tile of tokens is a group of kTileTokens as it lies; the weights of a panel are unpacked once
// for all groups of a product.

namespace {

// The tiles and what they hold. The intrinsics take literal numbers only: g++ 12 makes them text.
//   0, 1  [token][row] products with the high bytes of the activations, with the low ones
//   5, 6  the same of every second block: a tile that is zeroed waits for what was in it
//   2, 3  [token][32] high bytes, low bytes
//   4     [columns / 4][row][4] weights
constexpr int kWeightRows = kBlockColumns / 4;
constexpr int kTileBytes = kWeightRows * 64;
constexpr int kGroupBlockBytes = kTileTokens * kBlockCodes;

// A group's codes come from the second cache, for every panel anew, and are asked for some blocks
// ahead: 168 to 186 GMAC/s.
constexpr int kBlocksAhead = 3;

template <int kBytes, typename T>
inline void Prefetch(const T* p) {
#pragma GCC unroll 16
  for (int line = 0; line < kBytes; line += 64) {
    __builtin_prefetch(p + line);
  }
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

inline void ConfigureTiles() {
  TileConfig config;
  for (int tile = 0; tile < 7; ++tile) {
    config.rows[tile] = static_cast<uint8_t>(tile == 4 ? kWeightRows : kTileTokens);
    config.row_bytes[tile] = tile == 2 || tile == 3 ? kBlockColumns : 64;
  }
  asm volatile("" : : "r"(&config) : "memory");  // g++ 12 takes it for 8 bytes
  _tile_loadconfig(&config);
}

// Products of a block's activations with its weights, stored.
struct alignas(64) TileDots {
  int32_t high[kTileTokens][kPanelRows];
  int32_t low[kTileTokens][kPanelRows];
};

// The codes of panel `p` as tiles take them: where they lie, `stride` bytes from block to block, or
// unpacked beforehand, for a tile cannot be loaded from stores that are still under way.
struct TileWeights {
  const uint8_t* blocks;
  int64_t stride;
};

template <PanelKind kKind>
inline TileWeights UnpackPanel(const PanelProduct& product, int64_t p) {
  using P = Panel<kKind>;
  const uint8_t* codes = product.panels + p * product.panel_bytes;
  if constexpr (!P::kNibbles) {
    return {codes, P::kBlockBytes};
  } else {
    uint8_t* out = product.room;
    for (int64_t b = 0; b < product.num_columns / kBlockColumns; ++b) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const B both = Simd::LoadBytes(codes + 64 * j);
        Simd::StoreBytes(out + 64 * j, Simd::LowNibbles(both));
        Simd::StoreBytes(out + 64 * (4 + j), Simd::HighNibbles(both));
      }
      codes += P::kBlockBytes;
      out += kTileBytes;
    }
    return {product.room, kTileBytes};
  }
}

inline void DotEvenBlock(const int8_t* codes, const uint8_t* weights, TileDots& dots) {
  asm volatile("" ::: "memory");  // g++ 12 does not know that a tile is loaded from memory
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(4, weights, 64);
  _tile_loadd(2, codes, kBlockCodes);
  _tile_dpbsud(0, 2, 4);
  _tile_loadd(3, codes + kBlockColumns, kBlockCodes);
  _tile_dpbsud(1, 3, 4);
  _tile_stored(0, dots.high, 64);
  _tile_stored(1, dots.low, 64);
}

inline void DotOddBlock(const int8_t* codes, const uint8_t* weights, TileDots& dots) {
  asm volatile("" ::: "memory");
  _tile_zero(5);
  _tile_zero(6);
  _tile_loadd(4, weights, 64);
  _tile_loadd(2, codes, kBlockCodes);
  _tile_dpbsud(5, 2, 4);
  _tile_loadd(3, codes + kBlockColumns, kBlockCodes);
  _tile_dpbsud(6, 3, 4);
  _tile_stored(5, dots.high, 64);
  _tile_stored(6, dots.low, 64);
}

// Block `b` of a group's codes into dots[b % 2].
inline void DotBlock(int64_t b, const int8_t* codes, TileWeights weights, TileDots* dots) {
  codes += b * kGroupBlockBytes;
  if (b % 2 == 0) {
    DotEvenBlock(codes, weights.blocks + b * weights.stride, dots[0]);
  } else {
    DotOddBlock(codes, weights.blocks + b * weights.stride, dots[1]);
  }
}

template <PanelKind kKind>
inline void AddBlock(const TileDots& dots, const uint8_t* scales, const ActivationBlock* blocks,
                     F* sums) {
  using P = Panel<kKind>;
  const F scale = P::LoadScales(scales);
#pragma GCC unroll 16
  for (int t = 0; t < kTileTokens; ++t) {
    sums[t] = AddScaled<P::kZero, true, true>(
        Simd::LoadInts(dots.high[t]), Simd::LoadInts(dots.low[t]), blocks[t], scale, sums[t]);
  }
  if constexpr (P::kMinimum) {
    const F minimum = P::LoadScales(scales + P::kScaleBytes);
#pragma GCC unroll 16
    for (int t = 0; t < kTileTokens; ++t) {
      sums[t] = Simd::Fma(minimum, Simd::Set(blocks[t].scaled_sum), sums[t]);
    }
  }
}

// Panel `p` times the tokens of a group, from `first` on.
template <PanelKind kKind>
[[gnu::noinline]] void MultiplyGroup(const PanelProduct& product, int64_t p, TileWeights weights,
                                     int64_t first, TileDots* dots) {
  using P = Panel<kKind>;
  const int64_t num_blocks = product.num_columns / kBlockColumns;
  const uint8_t* scales = product.panels + p * product.panel_bytes + P::kCodeBytes;
  const int8_t* codes = product.codes + first * num_blocks * kBlockCodes;
  const ActivationBlock* blocks = product.blocks + first * num_blocks;
  F sums[kTileTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kTileTokens; ++t) {
    sums[t] = Simd::Zero();
  }
  DotBlock(0, codes, weights, dots);
  for (int64_t b = 0; b < num_blocks; ++b) {
    if (b + 1 < num_blocks) {
      DotBlock(b + 1, codes, weights, dots);
    }
    if (first == 0) {  // the next panel, which is unpacked after the last group
      Prefetch<P::kBlockBytes>(scales - P::kCodeBytes + product.panel_bytes);
    }
    Prefetch<kGroupBlockBytes>(codes + (b + kBlocksAhead) * kGroupBlockBytes);
    AddBlock<kKind>(dots[b % 2], scales, blocks, sums);
    scales += P::kBlockBytes;
    blocks += kTileTokens;
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTileTokens; ++t) {
    StoreRows(product, p, first + t, sums[t]);
  }
}

template <PanelKind kKind>
void MultiplyPanelsInTiles(const PanelProduct& product) {
  const int64_t whole =
      product.group_tokens == kTileTokens ? product.num_tokens / kTileTokens * kTileTokens : 0;
  if (whole > 0) {
    TileDots dots[2];
    ConfigureTiles();
    for (int64_t p = 0; p < product.num_panels; ++p) {
      const TileWeights weights = UnpackPanel<kKind>(product, p);
      for (int64_t first = 0; first < whole; first += kTileTokens) {
        MultiplyGroup<kKind>(product, p, weights, first, dots);
      }
    }
    _tile_release();
  }
  MultiplyFrom<kKind>(product, whole);
}

constexpr IsaTable WithTiles(IsaTable table) {
  table.has_tiles = true;
  // Not Q6_K, whose scales are of half a block: a tile would be half empty.
  table.panel_product[static_cast<int>(PanelKind::kQ4_0)] = MultiplyPanelsInTiles<PanelKind::kQ4_0>;
  table.panel_product[static_cast<int>(PanelKind::kQ4_1)] = MultiplyPanelsInTiles<PanelKind::kQ4_1>;
  table.panel_product[static_cast<int>(PanelKind::kQ5_0)] = MultiplyPanelsInTiles<PanelKind::kQ5_0>;
  table.panel_product[static_cast<int>(PanelKind::kQ5_1)] = MultiplyPanelsInTiles<PanelKind::kQ5_1>;
  table.panel_product[static_cast<int>(PanelKind::kQ8_0)] = MultiplyPanelsInTiles<PanelKind::kQ8_0>;
  table.panel_product[static_cast<int>(PanelKind::kQ4_K)] = MultiplyPanelsInTiles<PanelKind::kQ4_K>;
  table.panel_product[static_cast<int>(PanelKind::kQ5_K)] = MultiplyPanelsInTiles<PanelKind::kQ5_K>;
  return table;
}

}  // namespace
