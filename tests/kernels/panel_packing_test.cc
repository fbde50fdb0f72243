#include "kernels/quant/panel_packing.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/core/panel_codes.h"

namespace thermocline {
namespace {

TEST(PanelPacking, WordsGiveTheBytesOfTheFormatAndTheCodesBack) {
  for (const int dim : {8, 24, 64, 80, 128}) {
    for (const int num_tokens : {16, 48, 64}) {
      for (const int bits : {2, 3, 4, 8}) {
        const CodeMatrix matrix{num_tokens, dim};
        std::mt19937 random(11);
        std::vector<uint8_t> codes(static_cast<size_t>(matrix.bytes()), 0);
        const auto code_at = [&](int token, int i) -> uint8_t& {
          return codes[static_cast<size_t>(token * matrix.stride() + i)];
        };
        for (int token = 0; token < num_tokens; ++token) {
          for (int i = 0; i < dim; ++i) {
            code_at(token, i) = static_cast<uint8_t>(random() & ((1U << bits) - 1));
          }
        }
        for (const PanelLane lane : {PanelLane::kToken, PanelLane::kDimension}) {
          const bool tokens = lane == PanelLane::kToken;
          std::vector<uint8_t> packed(static_cast<size_t>(PanelsBytes(matrix, bits, lane)), 0xaa);
          PackPanels(matrix, bits, lane, codes.data(), packed.data());
          std::vector<uint8_t> want;
          for (int panel = 0; panel < (tokens ? num_tokens : dim); panel += kPanelLanes) {
            for (int first = 0; first < (tokens ? matrix.stride() : num_tokens);
                 first += GroupInner(bits)) {
              std::vector<uint8_t> group;
              for (int i = 0; i < GroupInner(bits) * kPanelLanes; ++i) {
                const int outer = panel + i % kPanelLanes;
                const int inner = first + i / kPanelLanes;
                group.push_back(tokens ? code_at(outer, inner) : code_at(inner, outer));
              }
              want.resize(want.size() + static_cast<size_t>(GroupBytes(bits)));
              PackGroup(bits, group.data(), want.data() + want.size() - GroupBytes(bits));
            }
          }
          ASSERT_EQ(packed, want) << "dim " << dim << " bits " << bits;
          std::vector<uint8_t> back(codes.size(), 0);
          UnpackPanels(matrix, bits, lane, packed.data(), back.data());
          ASSERT_EQ(back, codes) << "dim " << dim << " bits " << bits;
        }
      }
    }
  }
}

}  // namespace
}  // namespace thermocline
