#include "engine/kv/kv_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/quant/rotation.h"

namespace thermocline {
namespace {

constexpr KvLayout kLayout{.num_layers = 3, .num_kv_heads = 2, .head_dim = 64, .page_tokens = 64};

size_t Index(Tier tier) { return static_cast<size_t>(tier); }

// Of a model whose K projection has a bias in the layers where `has_bias` says so.
KeyBias BiasIn(const std::vector<bool>& has_bias) {
  std::vector<float> biases;
  for (const bool has : has_bias) {
    biases.insert(biases.end(), size_t{2} * 64, has ? 3.0F : 0.0F);
  }
  const std::vector<float> frequencies(32, 0.1F);
  return KeyBias(kLayout, biases, {.frequencies = frequencies}, RotationSigns(64, 1), 256);
}

std::vector<Codec> ArchiveCodecs(KvFormats formats) {
  const auto device = CpuDevice::Create({}).value();
  const KvCache cache =
      KvCache::Create(*device, kLayout, std::move(formats), kArenaUnitBytes).value();
  std::vector<Codec> codecs;
  for (int layer = 0; layer < kLayout.num_layers; ++layer) {
    codecs.push_back(cache.view({}).format(layer, Tier::kArchive).codec);
  }
  return codecs;
}

TEST(KvCache, ArchivedPagesAreAnEighthOfHotOnesInWholeUnits) {
  const KvLayout layout{.num_layers = 30, .num_kv_heads = 3, .head_dim = 64, .page_tokens = 64};
  const auto bytes = PageBytes(layout, DefaultKvFormats(layout));
  EXPECT_EQ(bytes[Index(Tier::kHot)], 360 * kArenaUnitBytes);
  EXPECT_EQ(bytes[Index(Tier::kArchive)], 41 * kArenaUnitBytes);
  EXPECT_LT(8 * bytes[Index(Tier::kArchive)], bytes[Index(Tier::kHot)]);
}

TEST(KvCache, ArchiveFollowsTheColdCodecOfALayer) {
  KvFormats formats = DefaultKvFormats(kLayout);
  formats.cold = {Codec::kTurbo3, Codec::kTurboK4V3, Codec::kInt8};
  EXPECT_EQ(ArchiveCodecs(std::move(formats)),
            (std::vector<Codec>{Codec::kMerged2, Codec::kMergedK3V2, Codec::kInt8}));
}

TEST(KvCache, ALayerWithAKeyBiasIsNotMerged) {
  KvFormats formats = DefaultKvFormats(kLayout);
  formats.key_bias = BiasIn({false, true, false});
  EXPECT_LT(PageBytes(kLayout, formats)[Index(Tier::kArchive)],
            PageBytes(kLayout, formats)[Index(Tier::kCold)]);
  EXPECT_EQ(ArchiveCodecs(std::move(formats)),
            (std::vector<Codec>{Codec::kMerged2, Codec::kTurbo3, Codec::kMerged2}));
}

TEST(KvCache, NoArchiveIsOfferedWhereItSavesNothing) {
  KvFormats formats = DefaultKvFormats(kLayout);
  formats.key_bias = BiasIn({true, true, true});
  EXPECT_EQ(PageBytes(kLayout, formats)[Index(Tier::kArchive)], 0U);
  KvLayout short_pages = kLayout;
  short_pages.page_tokens = 32;
  EXPECT_EQ(PageBytes(short_pages, DefaultKvFormats(short_pages))[Index(Tier::kArchive)], 0U);
}

}  // namespace
}  // namespace thermocline
