#pragma once

#include "server/cli/command_line.h"

namespace thermocline {

// `thermocline chat`: a conversation in the terminal, with the engine in this process. Ctrl-C stops
// an answer; at the prompt it leaves, as Ctrl-D and /exit do. /new starts over. Returns the exit
// code.
int RunChat(const ChatOptions& options);

}  // namespace thermocline
