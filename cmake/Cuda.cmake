# Resolves TIERCEL_CUDA (on, off or auto) to TIERCEL_CUDA_ENABLED. With it on, the CUDA runtime is linked statically, so that
# the program also starts on a machine without a driver.
string(TOLOWER "${TIERCEL_CUDA}" cuda_choice)
if(NOT cuda_choice MATCHES "^(on|off|auto)$")
  message(FATAL_ERROR "TIERCEL_CUDA is \"${TIERCEL_CUDA}\"; it must be on, off or auto")
endif()

set(TIERCEL_CUDA_ENABLED OFF)
if(NOT cuda_choice STREQUAL "off")
  find_package(CUDAToolkit 13 QUIET)
  if(TARGET CUDA::cudart_static)
    set(TIERCEL_CUDA_ENABLED ON)
  elseif(cuda_choice STREQUAL "on")
    message(FATAL_ERROR "TIERCEL_CUDA=on, but no CUDA toolkit 13 with the static runtime was found. Install one (Debian and "
      "Ubuntu: NVIDIA's package cuda-toolkit-13-0), name it by -DCUDAToolkit_ROOT=<path>, or configure with "
      "-DTIERCEL_CUDA=off.")
  endif()
endif()

if(TIERCEL_CUDA_ENABLED)
  message(STATUS "CUDA: on (TIERCEL_CUDA=${cuda_choice}), toolkit ${CUDAToolkit_VERSION} in ${CUDAToolkit_BIN_DIR}")
else()
  message(STATUS "CUDA: off (TIERCEL_CUDA=${cuda_choice})")
endif()
