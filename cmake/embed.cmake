# Writes the text file INPUT as the C++ raw string constant NAME into OUTPUT. A literal has a length
# limit that text of some tens of KiB would pass, so it is cut into adjacent ones.
file(READ ${INPUT} text)
string(LENGTH "${text}" length)
set(literals "")
set(begin 0)
while(begin LESS length)
  string(SUBSTRING "${text}" ${begin} 8000 part)
  string(APPEND literals "R\"~~~~(${part})~~~~\"\n")
  math(EXPR begin "${begin} + 8000")
endwhile()
file(WRITE ${OUTPUT} "#pragma once\n\n#include <string_view>\n\nnamespace thermocline {\n\ninline constexpr char ${NAME}[] =\n${literals};\n\n}  // namespace thermocline\n")
