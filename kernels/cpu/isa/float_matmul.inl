// Products of activations with 16-row panels of floats (kernels/cpu/panels.h), for any Simd of 16
// lanes.

namespace {

template <PanelKind kKind>
F LoadFloatColumn(const uint8_t* panel, int64_t column) {
  if constexpr (kKind == PanelKind::kF32) {
    return Simd::Load(reinterpret_cast<const float*>(panel) + column * kPanelRows);
  } else if constexpr (kKind == PanelKind::kF16) {
    return Simd::LoadHalf(reinterpret_cast<const uint16_t*>(panel) + column * kPanelRows);
  } else {
    return Simd::LoadBFloat16(reinterpret_cast<const uint16_t*>(panel) + column * kPanelRows);
  }
}

// Four sums per token, of columns 0, 4, 8, ..; 1, 5, 9, ..: enough independent chains for one
// token.
template <PanelKind kKind, int kTokens>
void MultiplyFloatTile(const PanelProduct& product, int64_t p, int64_t first) {
  const int64_t num_columns = product.num_columns;
  const uint8_t* panel = product.panels + p * product.panel_bytes;
  const float* x = product.x + first * num_columns;
  F sums[kTokens][4];
  for (int t = 0; t < kTokens; ++t) {
    for (F& sum : sums[t]) {
      sum = Simd::Zero();
    }
  }
  const int64_t whole = num_columns / 4 * 4;
  for (int64_t column = 0; column < whole; column += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const F weights = LoadFloatColumn<kKind>(panel, column + j);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sums[t][j] = Simd::Fma(weights, Simd::Set(x[t * num_columns + column + j]), sums[t][j]);
      }
    }
  }
  for (int64_t column = whole; column < num_columns; ++column) {
    const F weights = LoadFloatColumn<kKind>(panel, column);
    for (int t = 0; t < kTokens; ++t) {
      sums[t][0] = Simd::Fma(weights, Simd::Set(x[t * num_columns + column]), sums[t][0]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    StoreRows(product, p, first + t,
              Simd::Add(Simd::Add(sums[t][0], sums[t][1]), Simd::Add(sums[t][2], sums[t][3])));
  }
}

template <PanelKind kKind, int kTokens>
void MultiplyFloatTiles(const PanelProduct& product, int64_t& token) {
  for (; token + kTokens <= product.num_tokens; token += kTokens) {
    for (int64_t p = 0; p < product.num_panels; ++p) {
      MultiplyFloatTile<kKind, kTokens>(product, p, token);
    }
  }
}

template <PanelKind kKind>
void MultiplyFloatPanels(const PanelProduct& product) {
  int64_t token = 0;
  if constexpr (Simd::kMaxTokens >= 4) {
    MultiplyFloatTiles<kKind, 4>(product, token);
  }
  MultiplyFloatTiles<kKind, 2>(product, token);
  MultiplyFloatTiles<kKind, 1>(product, token);
}

}  // namespace
