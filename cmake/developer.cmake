# Settings for everything built here. Warnings are errors for developers only, so that a newer compiler never breaks a
# user's build.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()

find_program(TIERCEL_CCACHE ccache)
if(TIERCEL_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TIERCEL_CCACHE})
endif()

# tiercel_target(NAME): the flags of every target of ours.
function(tiercel_target name)
  # GCC 12 takes members left out of a designated initialiser for uninitialised ones, and "x" + string for an overlap.
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wshadow "$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-restrict>"
    $<$<BOOL:${TIERCEL_DEVELOPER}>:-Werror>)
  if(TIERCEL_SANITIZE)
    # Reports want lines, not variables, and a null pointer is AddressSanitizer's to tell: this halves the time of a build.
    target_compile_options(${name} PUBLIC -fsanitize=${TIERCEL_SANITIZE} -fno-sanitize=null -fno-omit-frame-pointer -fno-sanitize-recover=all -g1)
    target_link_options(${name} PUBLIC -fsanitize=${TIERCEL_SANITIZE})
  endif()
endfunction()
