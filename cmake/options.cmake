# thermocline_options: what every target of ours is compiled with.
add_library(thermocline_options INTERFACE)
target_include_directories(thermocline_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(thermocline_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
                                                     -Wcast-align -Woverloaded-virtual -Werror)
# Designated initialisers leave the rest at their defaults on purpose.
target_compile_options(thermocline_options INTERFACE -Wno-missing-field-initializers)
# Floating point must mean the same in every build: no contraction that the source does not spell.
target_compile_options(thermocline_options INTERFACE -ffp-contract=off)
if(THERMOCLINE_SANITIZE)
  target_compile_options(thermocline_options INTERFACE -fsanitize=${THERMOCLINE_SANITIZE}
                                                       -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(thermocline_options INTERFACE -fsanitize=${THERMOCLINE_SANITIZE})
  # g++ and clang++ tell a source in different ways that a sanitizer is on; this is the same in both.
  target_compile_definitions(thermocline_options INTERFACE THERMOCLINE_SANITIZED)
endif()

# Paths are cached relative to the checkout, so that a second clone finds what the first compiled.
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()

# thermocline_library(NAME SOURCES... DEPENDS TARGETS...): one static library per folder.
function(thermocline_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC thermocline_options ${ARG_DEPENDS})
endfunction()

# thermocline_embed(TARGET FILE HEADER CONSTANT): a text file as a char array in a header of the build
# tree, included by its path there.
function(thermocline_embed target file header constant)
  set(input ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  set(output ${CMAKE_CURRENT_BINARY_DIR}/generated/${header})
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${input} -DOUTPUT=${output} -DNAME=${constant} -P
            ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${input} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    VERBATIM)
  target_sources(${target} PRIVATE ${output})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
endfunction()

# g++ 12 warns of overlapping copies inside its own std::string (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(thermocline_options INTERFACE -Wno-restrict)
endif()
