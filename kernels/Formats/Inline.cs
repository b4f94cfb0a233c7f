using System.Runtime.CompilerServices;

namespace Native.Kernels.Formats;

/// <summary>Four bytes in place, inside a block.</summary>
[InlineArray(4)]
public struct Bytes4 { private byte _first; }

/// <summary>Twelve bytes in place, inside a block.</summary>
[InlineArray(12)]
public struct Bytes12 { private byte _first; }

/// <summary>Sixteen bytes in place, inside a block.</summary>
[InlineArray(16)]
public struct Bytes16 { private byte _first; }

/// <summary>Thirty-two bytes in place, inside a block.</summary>
[InlineArray(32)]
public struct Bytes32 { private byte _first; }

/// <summary>Sixty-four bytes in place, inside a block.</summary>
[InlineArray(64)]
public struct Bytes64 { private byte _first; }

/// <summary>A hundred and twenty-eight bytes in place, inside a block.</summary>
[InlineArray(128)]
public struct Bytes128 { private byte _first; }

/// <summary>Sixteen signed bytes in place, inside a block.</summary>
[InlineArray(16)]
public struct SBytes16 { private sbyte _first; }

/// <summary>Thirty-two signed bytes in place, inside a block.</summary>
[InlineArray(32)]
public struct SBytes32 { private sbyte _first; }
