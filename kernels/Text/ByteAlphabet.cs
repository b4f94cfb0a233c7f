namespace Native.Kernels.Text;

/// <summary>GPT-2's way to write bytes as printable characters (Radford et al. 2019, <c>bytes_to_unicode</c>):
/// printable Latin-1 characters stay, the other 68 bytes become U+0100 and up, in order.</summary>
public static class ByteAlphabet
{
    private const int Characters = 0x144;
    private static readonly char[] ToChar = new char[256];
    private static readonly short[] ToByte = new short[Characters];

    static ByteAlphabet()
    {
        Array.Fill(ToByte, (short)-1);
        int next = 0x100;
        for (int b = 0; b < 256; b++)
        {
            bool printable = b is >= 0x21 and <= 0x7E or >= 0xA1 and <= 0xAC or >= 0xAE;
            ToChar[b] = printable ? (char)b : (char)next++;
            ToByte[ToChar[b]] = (short)b;
        }
    }

    /// <summary>The character that stands for a byte.</summary>
    public static char Character(byte value) => ToChar[value];

    /// <summary>The byte a character stands for, or -1 where it stands for none.</summary>
    public static int Byte(char character) => character < Characters ? ToByte[character] : -1;
}
