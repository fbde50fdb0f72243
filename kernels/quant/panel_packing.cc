#include "kernels/quant/panel_packing.h"

#include <array>
#include <bit>
#include <cstring>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

static_assert(std::endian::native == std::endian::little);  // byte e of a uint32 is inner code e

// How many uint32 of codes a lane of a group has.
template <int kBits>
constexpr int kWords = GroupInner(kBits) / 4;

using Word = std::array<uint32_t, kPanelLanes>;  // one per lane
// Element w holds inner codes 4 w .. 4 w + 3, a byte each.
template <int kBits>
using Group = std::array<Word, kWords<kBits>>;

constexpr uint32_t kEvenPairs = 0x03030303;

void StoreRow(const Word& row, uint8_t* out) { std::memcpy(out, row.data(), sizeof(row)); }
Word LoadRow(const uint8_t* in) {
  Word row;
  std::memcpy(row.data(), in, sizeof(row));
  return row;
}

// low | high << kBits, lane by lane.
template <int kBits>
Word Join(const Word& low, const Word& high) {
  Word row;
  for (size_t lane = 0; lane < kPanelLanes; ++lane) {
    row[lane] = low[lane] | high[lane] << kBits;
  }
  return row;
}

template <int kBits>
void Split(const Word& row, Word& low, Word& high) {
  constexpr uint32_t kMask = 0x01010101U * ((1U << kBits) - 1);
  for (size_t lane = 0; lane < kPanelLanes; ++lane) {
    low[lane] = row[lane] & kMask;
    high[lane] = row[lane] >> kBits & kMask;
  }
}

template <int kBits>
void PackWords(const Group<kBits>& group, uint8_t* out) {
  if constexpr (kBits == 8) {
    std::memcpy(out, group.data(), sizeof(group));
  } else if constexpr (kBits == 2) {
    StoreRow(Join<4>(Join<2>(group[0], group[1]), Join<2>(group[2], group[3])), out);
  } else {
    constexpr size_t kRows = kBits == 3 ? 3 : 4;
    const Word spare = Join<3>(group[6], group[7]);
    for (size_t r = 0; r < kRows; ++r) {
      Word row = Join<kBits>(group[2 * r], group[2 * r + 1]);
      for (size_t lane = 0; lane < kPanelLanes && kBits == 3; ++lane) {
        row[lane] |= (spare[lane] >> 2 * r & kEvenPairs) << 6;
      }
      StoreRow(row, out + kGroupRowBytes * r);
    }
  }
}

template <int kBits>
void UnpackWords(const uint8_t* in, Group<kBits>& group) {
  if constexpr (kBits == 8) {
    std::memcpy(group.data(), in, sizeof(group));
  } else if constexpr (kBits == 2) {
    Word low;
    Word high;
    Split<4>(LoadRow(in), low, high);
    Split<2>(low, group[0], group[1]);
    Split<2>(high, group[2], group[3]);
  } else {
    constexpr size_t kRows = kBits == 3 ? 3 : 4;
    Word spare{};
    for (size_t r = 0; r < kRows; ++r) {
      const Word row = LoadRow(in + kGroupRowBytes * r);
      for (size_t lane = 0; lane < kPanelLanes && kBits == 3; ++lane) {
        spare[lane] |= (row[lane] >> 6 & kEvenPairs) << 2 * r;
      }
      Split<kBits>(row, group[2 * r], group[2 * r + 1]);
    }
    if constexpr (kBits == 3) {
      Split<3>(spare, group[6], group[7]);
    }
  }
}

// One group from or to the codes where its first one is.
template <int kBits>
void GatherTokenLanes(const uint8_t* codes, int stride, Group<kBits>& group) {
  for (size_t lane = 0; lane < kPanelLanes; ++lane, codes += stride) {
    std::array<uint32_t, kWords<kBits>> words;
    std::memcpy(words.data(), codes, sizeof(words));
    for (size_t w = 0; w < kWords<kBits>; ++w) {
      group[w][lane] = words[w];
    }
  }
}
template <int kBits>
void ScatterTokenLanes(const Group<kBits>& group, int stride, uint8_t* codes) {
  for (size_t lane = 0; lane < kPanelLanes; ++lane, codes += stride) {
    std::array<uint32_t, kWords<kBits>> words;
    for (size_t w = 0; w < kWords<kBits>; ++w) {
      words[w] = group[w][lane];
    }
    std::memcpy(codes, words.data(), sizeof(words));
  }
}
template <int kBits>
void GatherDimensionLanes(const uint8_t* codes, int stride, Group<kBits>& group) {
  for (Word& word : group) {
    word.fill(0);
    for (int e = 0; e < 4; ++e, codes += stride) {
      for (size_t lane = 0; lane < kPanelLanes; ++lane) {
        word[lane] |= uint32_t{codes[lane]} << 8 * e;
      }
    }
  }
}
template <int kBits>
void ScatterDimensionLanes(const Group<kBits>& group, int stride, uint8_t* codes) {
  for (const Word& word : group) {
    for (int e = 0; e < 4; ++e, codes += stride) {
      for (size_t lane = 0; lane < kPanelLanes; ++lane) {
        codes[lane] = static_cast<uint8_t>(word[lane] >> 8 * e);
      }
    }
  }
}

// The inner codes of a lane. Dimensions are padded like those of queries.
int InnerCodes(const CodeMatrix& matrix, PanelLane lane) {
  return lane == PanelLane::kToken ? matrix.stride() : matrix.num_tokens;
}

// Calls visit(offset of a group's first code, offset of its packed bytes) in packed order.
template <typename Visit>
void ForGroups(const CodeMatrix& matrix, int bits, PanelLane lane, Visit visit) {
  const bool token_lanes = lane == PanelLane::kToken;
  const int num_lanes = token_lanes ? matrix.num_tokens : matrix.dim;
  const int num_inner = InnerCodes(matrix, lane);
  const int lane_stride = token_lanes ? matrix.stride() : 1;
  const int inner_stride = token_lanes ? 1 : matrix.stride();
  int packed = 0;
  for (int first_lane = 0; first_lane < num_lanes; first_lane += kPanelLanes) {
    for (int inner = 0; inner < num_inner; inner += GroupInner(bits), packed += GroupBytes(bits)) {
      visit(first_lane * lane_stride + inner * inner_stride, packed);
    }
  }
}

template <int kBits>
void Pack(const CodeMatrix& matrix, PanelLane lane, const uint8_t* codes, uint8_t* packed) {
  ForGroups(matrix, kBits, lane, [&](int code, int byte) {
    Group<kBits> group;
    lane == PanelLane::kToken ? GatherTokenLanes<kBits>(codes + code, matrix.stride(), group)
                              : GatherDimensionLanes<kBits>(codes + code, matrix.stride(), group);
    PackWords<kBits>(group, packed + byte);
  });
}

template <int kBits>
void Unpack(const CodeMatrix& matrix, PanelLane lane, const uint8_t* packed, uint8_t* codes) {
  ForGroups(matrix, kBits, lane, [&](int code, int byte) {
    Group<kBits> group;
    UnpackWords<kBits>(packed + byte, group);
    lane == PanelLane::kToken ? ScatterTokenLanes<kBits>(group, matrix.stride(), codes + code)
                              : ScatterDimensionLanes<kBits>(group, matrix.stride(), codes + code);
  });
}

}  // namespace

int PanelsBytes(const CodeMatrix& matrix, int bits, PanelLane lane) {
  const int num_lanes = lane == PanelLane::kToken ? matrix.num_tokens : matrix.dim;
  const int num_inner = InnerCodes(matrix, lane);
  return (num_lanes + kPanelLanes - 1) / kPanelLanes * PanelBytes(bits, num_inner);
}

void PackPanels(const CodeMatrix& matrix, int bits, PanelLane lane, const uint8_t* codes,
                uint8_t* packed) {
  CHECK(bits == 2 || bits == 3 || bits == 4 || bits == 8);
  const auto pack = bits == 2 ? Pack<2> : bits == 3 ? Pack<3> : bits == 4 ? Pack<4> : Pack<8>;
  pack(matrix, lane, codes, packed);
}

void UnpackPanels(const CodeMatrix& matrix, int bits, PanelLane lane, const uint8_t* packed,
                  uint8_t* codes) {
  CHECK(bits == 2 || bits == 3 || bits == 4 || bits == 8);
  const auto unpack = bits == 2   ? Unpack<2>
                      : bits == 3 ? Unpack<3>
                      : bits == 4 ? Unpack<4>
                                  : Unpack<8>;
  unpack(matrix, lane, packed, codes);
}

}  // namespace thermocline
