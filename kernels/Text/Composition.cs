namespace Native.Kernels.Text;
internal static class Composition { public static string Compose(ReadOnlySpan<char> text) => text.ToString().Normalize(); }
