# tiercel::libtorch, the CPU half of LibTorch: libtorch_cpu and libc10 with their headers, and nothing of CUDA or Python.
# LibTorch's own CMake package is not used: the one of the CUDA build insists on a whole CUDA toolkit, even to link the
# CPU half. This file is also installed, and serves tiercelConfig.cmake in the same way.
#
# Searched, in this order:
#   1. Torch_DIR (<prefix>/share/cmake/Torch), Torch_ROOT and CMAKE_PREFIX_PATH, as variables or in the environment
#   2. the path that tiercel was built with, for installed packages (TIERCEL_BUILT_WITH_LIBTORCH)
#   3. the cache that ./quickstart fills: ${TIERCEL_CACHE_DIR}, or tiercel in ${XDG_CACHE_HOME} or ~/.cache
set(TIERCEL_LIBTORCH_VERSION 2.11.0)

function(_tiercel_libtorch_candidates out)
  set(prefixes)
  foreach(package_dir "${Torch_DIR}" "$ENV{Torch_DIR}")
    if(package_dir)
      list(APPEND prefixes "${package_dir}/../../..")
    endif()
  endforeach()
  string(REPLACE ":" ";" prefix_path_of_environment "$ENV{CMAKE_PREFIX_PATH}")
  list(APPEND prefixes ${Torch_ROOT} $ENV{Torch_ROOT} ${CMAKE_PREFIX_PATH} ${prefix_path_of_environment}
       ${TIERCEL_BUILT_WITH_LIBTORCH})
  if(NOT "$ENV{TIERCEL_CACHE_DIR}" STREQUAL "")
    set(cache "$ENV{TIERCEL_CACHE_DIR}")
  elseif(NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
    set(cache "$ENV{XDG_CACHE_HOME}/tiercel")
  else()
    set(cache "$ENV{HOME}/.cache/tiercel")
  endif()
  list(APPEND prefixes "${cache}/libtorch-${TIERCEL_LIBTORCH_VERSION}/torch")
  set(${out} ${prefixes} PARENT_SCOPE)
endfunction()

# _tiercel_libtorch_cuda_link(PREFIX out): what a program's link line needs besides the two libraries. A libtorch_cpu of the
# CUDA build is itself linked to CUDA's runtime and profiler. In the layout of Python packages it finds them beside itself,
# by its own rpath, at link and at run time alike; elsewhere they come from a CUDA 13 toolkit, and since a program's rpath
# does not serve the libraries that it links, the program must name both, and under the linker's default --as-needed too.
function(_tiercel_libtorch_cuda_link prefix out)
  set(${out} "" PARENT_SCOPE)
  if(NOT EXISTS "${prefix}/lib/libtorch_cuda.so" OR EXISTS "${prefix}/../nvidia/cu13/lib/libcupti.so.13")
    return()
  endif()
  set(link "-Wl,--push-state,--no-as-needed")
  foreach(name libcudart.so.13 libcupti.so.13)
    unset(library)
    find_library(library NAMES ${name} NO_CACHE
      HINTS "${CUDAToolkit_ROOT}" "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}" /usr/local/cuda-13.0 /usr/local/cuda
      PATH_SUFFIXES lib64 lib extras/CUPTI/lib64 targets/x86_64-linux/lib targets/sbsa-linux/lib)
    if(NOT library)
      message(WARNING "The LibTorch of ${prefix} is a CUDA build and needs ${name}, which was not found: programs may fail to "
        "link or start. Install CUDA 13's runtime and CUPTI, or name the toolkit by -DCUDAToolkit_ROOT=<path>.")
      return()
    endif()
    get_filename_component(directory "${library}" DIRECTORY)
    string(APPEND link ",-rpath,${directory},${library}")
  endforeach()
  set(${out} "${link},--pop-state" PARENT_SCOPE)
endfunction()

function(_tiercel_find_libtorch)
  _tiercel_libtorch_candidates(prefixes)
  set(searched "")
  foreach(candidate ${prefixes})
    get_filename_component(candidate "${candidate}" ABSOLUTE)
    string(APPEND searched "\n  ${candidate}")
    if(EXISTS "${candidate}/lib/libtorch_cpu.so" AND EXISTS "${candidate}/include/ATen/ATen.h")
      set(prefix "${candidate}")
      break()
    endif()
  endforeach()
  if(NOT prefix)
    set(TIERCEL_LIBTORCH_NOT_FOUND "LibTorch was not found. Either\n"
      " - run ./quickstart, which downloads LibTorch ${TIERCEL_LIBTORCH_VERSION} into your cache directory, or\n"
      " - name your own: cmake -DTorch_DIR=<libtorch>/share/cmake/Torch (or add <libtorch> to CMAKE_PREFIX_PATH).\n"
      "Looked for lib/libtorch_cpu.so and include/ATen in:${searched}")
    string(CONCAT TIERCEL_LIBTORCH_NOT_FOUND ${TIERCEL_LIBTORCH_NOT_FOUND})
    set(TIERCEL_LIBTORCH_NOT_FOUND "${TIERCEL_LIBTORCH_NOT_FOUND}" PARENT_SCOPE)
    return()
  endif()

  add_library(tiercel::libtorch_c10 SHARED IMPORTED GLOBAL)
  set_target_properties(tiercel::libtorch_c10 PROPERTIES IMPORTED_LOCATION "${prefix}/lib/libc10.so")
  add_library(tiercel::libtorch SHARED IMPORTED GLOBAL)
  _tiercel_libtorch_cuda_link("${prefix}" cuda_link)
  # -idirafter, not a plain include directory: LibTorch's headers carry copies of fmt and others, which must not hide the
  # system's. It makes them system headers too.
  set_target_properties(tiercel::libtorch PROPERTIES
    IMPORTED_LOCATION "${prefix}/lib/libtorch_cpu.so"
    INTERFACE_COMPILE_OPTIONS "SHELL:-idirafter \"${prefix}/include\";SHELL:-idirafter \"${prefix}/include/torch/csrc/api/include\""
    INTERFACE_LINK_LIBRARIES "tiercel::libtorch_c10;${cuda_link}")
  # A build with the old ABI of std::string says so in its own package file; none does since 2.7.
  set(package_file "${prefix}/share/cmake/Torch/TorchConfig.cmake")
  if(EXISTS "${package_file}")
    file(STRINGS "${package_file}" old_abi REGEX "_GLIBCXX_USE_CXX11_ABI=0")
    if(old_abi)
      message(FATAL_ERROR "The LibTorch of ${prefix} was built with the old C++ ABI (_GLIBCXX_USE_CXX11_ABI=0), which cannot be "
        "linked with the system's libraries. Use LibTorch ${TIERCEL_LIBTORCH_VERSION}.")
    endif()
  endif()
  set(TIERCEL_LIBTORCH_PREFIX "${prefix}" PARENT_SCOPE)
  message(STATUS "LibTorch: ${prefix}")
endfunction()

if(NOT TARGET tiercel::libtorch)
  _tiercel_find_libtorch()
  if(NOT TARGET tiercel::libtorch AND NOT TIERCEL_LIBTORCH_OPTIONAL)
    message(FATAL_ERROR "${TIERCEL_LIBTORCH_NOT_FOUND}")
  endif()
endif()
