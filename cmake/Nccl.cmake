# tiercel::nccl, for ranks on GPUs, where it is found and CUDA is on. TIERCEL_NCCL: on, off, or auto. Also installed, for
# find_package(tiercel).
string(TOLOWER "${TIERCEL_NCCL}" _tiercel_nccl_choice)
if(NOT TARGET tiercel::nccl AND NOT _tiercel_nccl_choice STREQUAL "off")
  if(TIERCEL_CUDA_ENABLED)
    find_library(TIERCEL_NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
    find_path(TIERCEL_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    mark_as_advanced(TIERCEL_NCCL_LIBRARY TIERCEL_NCCL_INCLUDE)
  endif()
  if(TIERCEL_NCCL_LIBRARY AND TIERCEL_NCCL_INCLUDE)
    add_library(tiercel::nccl UNKNOWN IMPORTED GLOBAL)
    set_target_properties(tiercel::nccl PROPERTIES IMPORTED_LOCATION "${TIERCEL_NCCL_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${TIERCEL_NCCL_INCLUDE}")
  elseif(_tiercel_nccl_choice STREQUAL "on")
    message(FATAL_ERROR "TIERCEL_NCCL=on, but CUDA is off, or NCCL was not found (NVIDIA's package libnccl-dev)")
  endif()
endif()
