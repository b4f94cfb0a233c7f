namespace Native.Kernels.Text;
internal static class HuggingFaceTokenizer { public static TokenizerDefinition Read(string folder) => throw new InvalidDataException(folder); }
