#pragma once

#include <cstdint>

#include "server/api/field_reader.h"

namespace thermocline {

// Which of the refused fields matter to an endpoint.
enum class FieldScope : uint8_t {
  kPrompt,  // those that change what the model reads
  kAll,     // those that change how it answers too
};

// A field that no reader has asked for and that would change the answer must not be dropped in
// silence: 400 at the first field that is in the table of those and does not ask for what happens
// anyway (`mirostat: 0`, `priority: 0`). Names that the table does not know are ignored, as clients
// send many that change nothing (`user`, `metadata`, `store`). Call it once every field is read.
void RefuseUnread(FieldReader& fields, FieldScope scope);

}  // namespace thermocline
