// Defines the table of one instruction set. Included last.

namespace {

constexpr IsaTable kTable = {
    .has_tiles = false,
    .quantize_row = QuantizeRow,
    .panel_product = {MultiplyPanels<PanelKind::kQ4_0>, MultiplyPanels<PanelKind::kQ4_1>,
                      MultiplyPanels<PanelKind::kQ5_0>, MultiplyPanels<PanelKind::kQ5_1>,
                      MultiplyPanels<PanelKind::kQ8_0>, MultiplyPanels<PanelKind::kQ4_K>,
                      MultiplyPanels<PanelKind::kQ5_K>, MultiplyPanels<PanelKind::kQ6_K>,
                      MultiplyFloatPanels<PanelKind::kF32>, MultiplyFloatPanels<PanelKind::kF16>,
                      MultiplyFloatPanels<PanelKind::kBF16>},
    .rms_norm = RmsNormRow,
    .gated_silu = GatedSilu,
    .gated_gelu = GatedGelu,
    .half_to_float = HalfRowToFloat,
    .float_to_half = FloatRowToHalf,
    .narrow_queries = NarrowQueries,
    .attend_page = AttendPage,
    .attend_coded_page = AttendCodedPage,
    .merge_state = MergeState,
    .rope = RopeRow,
    .rotate_vector = RotateVector,
    .quantize_turbo = QuantizeTurboVector,
    .quantize_int8 = QuantizeInt8Vector,
    .quantize_keys = QuantizeKeys,
    .measure_keys = MeasureKeys,
    .dequantize_turbo = DequantizeTurboVector,
    .dequantize_int8 = DequantizeInt8Vector,
};

}  // namespace
