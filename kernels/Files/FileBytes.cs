using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Native.Kernels.Files;

/// <summary>A file read by position. It is not mapped into memory: touching a mapping of a file that was shortened ends
/// the process, while a read that comes short is an error that names the file. One thread at a time may call
/// <see cref="Head"/>, any number <see cref="Read"/>.</summary>
internal sealed unsafe class FileBytes : IDisposable
{
    private readonly SafeFileHandle _handle;
    private readonly DateTime _written;
    private byte* _head;
    private long _headLength;

    /// <exception cref="InvalidDataException">The path is a folder's.</exception>
    /// <exception cref="IOException">The file is not there or can't be read.</exception>
    public FileBytes(string path)
    {
        Path = path;
        if (Directory.Exists(path)) throw new InvalidDataException($"{path}: expected a file, found a folder");
        _handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete,
            FileOptions.SequentialScan);
        _written = File.GetLastWriteTimeUtc(_handle);
        Length = RandomAccess.GetLength(_handle);
    }

    public string Path { get; }

    /// <summary>The file's length when it was opened.</summary>
    public long Length { get; }

    /// <summary>The file's first bytes: at least <paramref name="bytes"/>, or all that it has. Results of earlier calls
    /// become invalid.</summary>
    /// <exception cref="InvalidDataException">The file was shortened since it was opened.</exception>
    public byte* Head(long bytes)
    {
        if (bytes <= _headLength) return _head;
        const long AtOnce = 1 << 16; // a header's length is unknown until it is read
        long wanted = Math.Min(Math.Max(bytes, Math.Max(2 * _headLength, AtOnce)), Length);
        _head = (byte*)NativeMemory.Realloc(_head, (nuint)wanted);
        while (_headLength < wanted)
        {
            int piece = (int)Math.Min(wanted - _headLength, 1 << 30);
            Read(_headLength, new Span<byte>(_head + _headLength, piece));
            _headLength += piece;
        }
        return _head;
    }

    /// <summary>Gives back the memory of <see cref="Head"/>.</summary>
    public void ForgetHead()
    {
        NativeMemory.Free(_head);
        _head = null;
        _headLength = 0;
    }

    /// <summary>Copies bytes out of the file.</summary>
    /// <exception cref="InvalidDataException">The file was shortened since it was opened.</exception>
    public void Read(long offset, Span<byte> bytes)
    {
        for (int done = 0; done < bytes.Length;)
        {
            int read = RandomAccess.Read(_handle, bytes[done..], offset + done);
            if (read == 0)
                throw new InvalidDataException(
                    $"{Path}: offset {offset + done}: expected a file of {Length} bytes, found its end: it was "
                    + "shortened while it was read");
            done += read;
        }
    }

    /// <summary>Throws if the file was written to since it was opened: what was read may be part of one file and part
    /// of another.</summary>
    /// <exception cref="InvalidDataException">It was.</exception>
    public void CheckUnchanged()
    {
        if (RandomAccess.GetLength(_handle) != Length || File.GetLastWriteTimeUtc(_handle) != _written)
            throw new InvalidDataException(
                $"{Path}: expected a file that stays as it is while it is read, found that it was written to; replace "
                + "model files by renaming new ones");
    }

    public void Dispose()
    {
        _handle.Dispose();
        ForgetHead();
    }
}
