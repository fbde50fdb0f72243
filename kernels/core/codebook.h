#pragma once

#include <cstdint>

#include "kernels/base/hd.h"

// Lloyd-Max quantisers for one coordinate of a rotated vector of norm sqrt(head_dim): the scalar
// quantisers of least squared error for the density (1 - t^2 / D)^((D - 3) / 2), which nears N(0,
// 1) as D grows (TurboQuant, arXiv 2504.19874, section 3). Symmetric, so only the positive half is
// written down. A value is coded as the number of thresholds that lie below it; a tie goes down.

namespace thermocline {

// The outermost level of a codebook as an int16, in units of word_step.
inline constexpr int kMaxWord = 8191;

struct Codebook {
  int num_levels = 0;
  float levels[16] = {};      // ascending
  float thresholds[15] = {};  // midpoints between levels
  // The levels as int16, in units of word_step, repeated: a lookup may read bits above the code's.
  int16_t words[16] = {};
  float word_step = 0;
};

template <int kHalf>
HD constexpr Codebook MirrorCodebook(const float (&levels)[kHalf],
                                     const float (&thresholds)[kHalf - 1]) {
  Codebook book;
  book.num_levels = 2 * kHalf;
  for (int i = 0; i < kHalf; ++i) {
    book.levels[kHalf + i] = levels[i];
    book.levels[kHalf - 1 - i] = -levels[i];
  }
  book.word_step = levels[kHalf - 1] / kMaxWord;
  for (int i = 0; i < 16; ++i) {
    const float steps = book.levels[i % book.num_levels] / book.word_step;
    book.words[i] = static_cast<int16_t>(steps < 0 ? steps - 0.5F : steps + 0.5F);
  }
  book.thresholds[kHalf - 1] = 0;
  for (int i = 0; i + 1 < kHalf; ++i) {
    book.thresholds[kHalf + i] = thresholds[i];
    book.thresholds[kHalf - 2 - i] = -thresholds[i];
  }
  return book;
}

inline constexpr Codebook kCodebookNormalx2 =
    MirrorCodebook<2>({0.4527650F, 1.5103866F}, {0.9815758F});
inline constexpr Codebook kCodebookNormalx3 = MirrorCodebook<4>(
    {0.2450615F, 0.7559174F, 1.3437931F, 2.1518349F}, {0.5004894F, 1.0498553F, 1.7478140F});
inline constexpr Codebook kCodebookNormalx4 = MirrorCodebook<8>(
    {0.1283254F, 0.3878393F, 0.6564371F, 0.9419483F, 1.2558039F, 1.6176162F, 2.0686105F,
     2.7322422F},
    {0.2580823F, 0.5221382F, 0.7991927F, 1.0988761F, 1.4367101F, 1.8431134F, 2.4004264F});
inline constexpr Codebook kCodebook64x2 = MirrorCodebook<2>({0.4521084F, 1.4999537F}, {0.9760311F});
inline constexpr Codebook kCodebook64x3 = MirrorCodebook<4>(
    {0.2437319F, 0.7505987F, 1.3292632F, 2.1112372F}, {0.4971653F, 1.0399310F, 1.7202502F});
inline constexpr Codebook kCodebook64x4 = MirrorCodebook<8>(
    {0.1272856F, 0.3845208F, 0.6501790F, 0.9314977F, 1.2389715F, 1.5904113F, 2.0229000F,
     2.6460334F},
    {0.2559032F, 0.5173499F, 0.7908384F, 1.0852346F, 1.4146914F, 1.8066557F, 2.3344667F});
inline constexpr Codebook kCodebook96x2 = MirrorCodebook<2>({0.4523282F, 1.5034237F}, {0.9778760F});
inline constexpr Codebook kCodebook96x3 = MirrorCodebook<4>(
    {0.2441571F, 0.7523270F, 1.3340332F, 2.1245838F}, {0.4982420F, 1.0431801F, 1.7293085F});
inline constexpr Codebook kCodebook96x4 = MirrorCodebook<8>(
    {0.1276235F, 0.3855905F, 0.6521917F, 0.9348712F, 1.2444289F, 1.5992688F, 2.0378110F,
     2.6741105F},
    {0.2566070F, 0.5188911F, 0.7935314F, 1.0896500F, 1.4218489F, 1.8185399F, 2.3559607F});
inline constexpr Codebook kCodebook128x2 =
    MirrorCodebook<2>({0.4524354F, 1.5051566F}, {0.9787960F});
inline constexpr Codebook kCodebook128x3 = MirrorCodebook<4>(
    {0.2443719F, 0.7531953F, 1.3364307F, 2.1313153F}, {0.4987836F, 1.0448130F, 1.7338730F});
inline constexpr Codebook kCodebook128x4 = MirrorCodebook<8>(
    {0.1277923F, 0.3861364F, 0.6532169F, 0.9365745F, 1.2471715F, 1.6037033F, 2.0453044F,
     2.6883280F},
    {0.2569643F, 0.5196767F, 0.7948957F, 1.0918730F, 1.4254374F, 1.8245038F, 2.3668162F});
inline constexpr Codebook kCodebook256x2 =
    MirrorCodebook<2>({0.4525978F, 1.5077639F}, {0.9801809F});
inline constexpr Codebook kCodebook256x3 = MirrorCodebook<4>(
    {0.2447065F, 0.7545298F, 1.3400568F, 2.1414629F}, {0.4996181F, 1.0472933F, 1.7407598F});
inline constexpr Codebook kCodebook256x4 = MirrorCodebook<8>(
    {0.1280189F, 0.3868629F, 0.6546116F, 0.9389740F, 1.2511653F, 1.6103247F, 2.0566010F,
     2.7098562F},
    {0.2574409F, 0.5207373F, 0.7967928F, 1.0950696F, 1.4307450F, 1.8334629F, 2.3832286F});

// The codebook of a head size for 2, 3 or 4 bits. Head sizes without a table of their own take the
// limit for large ones, which costs less than 2 % in error from 48 on.
HD constexpr const Codebook& CodebookFor(int head_dim, int bits) {
  switch (head_dim) {
    case 64:
      return bits == 2 ? kCodebook64x2 : bits == 3 ? kCodebook64x3 : kCodebook64x4;
    case 96:
      return bits == 2 ? kCodebook96x2 : bits == 3 ? kCodebook96x3 : kCodebook96x4;
    case 128:
      return bits == 2 ? kCodebook128x2 : bits == 3 ? kCodebook128x3 : kCodebook128x4;
    case 256:
      return bits == 2 ? kCodebook256x2 : bits == 3 ? kCodebook256x3 : kCodebook256x4;
    default:
      return bits == 2 ? kCodebookNormalx2 : bits == 3 ? kCodebookNormalx3 : kCodebookNormalx4;
  }
}

}  // namespace thermocline
