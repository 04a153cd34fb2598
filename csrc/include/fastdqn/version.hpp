// The version of fastdqn, written here alone: CMake, the Python package and its metadata read this file.
#pragma once

#define FASTDQN_VERSION_STRING "0.1.0"
