using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Native.Server.Hub;

/// <summary>A file of which ranges are there and others not, kept so that a later process goes on from it.</summary>
/// <remarks>The bytes lie in <c>HASH.native.incomplete</c>, of the whole length from the beginning, and how much of
/// each range is there in <c>HASH.native.ranges.incomplete</c>: three numbers (a mark, the length, the length of a
/// range) and one for each range, 64 bits little-endian. A range's number is written after its bytes, so a process that
/// is killed loses one write and claims none too many; what the system loses with its power, <see cref="Matches"/>
/// notices. The official client's <c>HASH.incomplete</c> is another name: some of its versions take a length for
/// progress.</remarks>
internal sealed class PartialFile : IDisposable
{
    private const long Mark = 0x31534547_4e415248; // "HRANGES1"
    private const int Header = 3 * sizeof(long);

    private readonly long _size, _rangeBytes;
    private readonly string _path, _rangesPath;
    private readonly SafeFileHandle _file, _ranges;
    private readonly long[] _done;

    private PartialFile(string blob, long size, long rangeBytes)
    {
        _size = size;
        _rangeBytes = rangeBytes;
        (_path, _rangesPath) = Paths(blob);
        _done = ReadDone(blob, size, rangeBytes);
        _file = File.OpenHandle(_path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        try
        {
            _ranges = File.OpenHandle(_rangesPath, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read);
            try
            {
                byte[] numbers = new byte[Header + _done.Length * sizeof(long)];
                BinaryPrimitives.WriteInt64LittleEndian(numbers, Mark);
                BinaryPrimitives.WriteInt64LittleEndian(numbers.AsSpan(8), size);
                BinaryPrimitives.WriteInt64LittleEndian(numbers.AsSpan(16), rangeBytes);
                for (int i = 0; i < _done.Length; i++)
                    BinaryPrimitives.WriteInt64LittleEndian(numbers.AsSpan(Header + i * sizeof(long)), _done[i]);
                RandomAccess.SetLength(_ranges, 0); // between here and the next line nothing is claimed
                RandomAccess.Write(_ranges, numbers, 0);
                try
                {
                    RandomAccess.SetLength(_file, size);
                }
                // the runtime's word for EFBIG: past 4 GiB on FAT, or past a limit of the process
                catch (ArgumentOutOfRangeException e)
                {
                    throw new IOException(
                        $"{size} bytes are too large a file for the file system or for this process's limit : "
                            + $"'{_path}'", e);
                }
            }
            catch
            {
                _ranges.Dispose();
                throw;
            }
        }
        catch
        {
            _file.Dispose();
            throw;
        }
    }

    public int RangeCount => _done.Length;

    /// <summary>Bytes that are there.</summary>
    public long Done => _done.Sum();

    /// <summary>Opens what is there of a file, or begins it. One process at a time.</summary>
    public static PartialFile Open(string blob, long size, long rangeBytes) => new(blob, size, rangeBytes);

    /// <summary>Bytes that are there, or were a moment ago where somebody has the file open.</summary>
    public static long DoneOf(string blob, long size, long rangeBytes) =>
        File.Exists(Paths(blob).Ranges) ? ReadDone(blob, size, rangeBytes).Sum() : 0;

    /// <summary>The first byte of a range that is not there.</summary>
    public long Next(int range) => range * _rangeBytes + Volatile.Read(ref _done[range]);

    /// <summary>The byte after a range's last.</summary>
    public long End(int range) => Math.Min((range + 1) * _rangeBytes, _size);

    /// <summary>Adds bytes to a range. Ranges may be written at once, each by one thread.</summary>
    public void Append(int range, ReadOnlySpan<byte> bytes)
    {
        RandomAccess.Write(_file, bytes, Next(range));
        SetDone(range, _done[range] + bytes.Length);
    }

    /// <summary>Forgets what is there.</summary>
    public void Restart()
    {
        for (int i = 0; i < _done.Length; i++) SetDone(i, 0);
    }

    /// <summary>Whether the bytes are those of a hash: SHA-256 (64 digits), or git's SHA-1 of a blob (40 digits), the
    /// hub's for files that are not in its large-file storage.</summary>
    public bool Matches(string etag, CancellationToken ct)
    {
        using IncrementalHash hash =
            IncrementalHash.CreateHash(etag.Length == 64 ? HashAlgorithmName.SHA256 : HashAlgorithmName.SHA1);
        if (etag.Length == 40) hash.AppendData(Encoding.ASCII.GetBytes($"blob {_size}\0"));
        byte[] buffer = new byte[1 << 20];
        for (long at = 0; at < _size;)
        {
            ct.ThrowIfCancellationRequested();
            int read = RandomAccess.Read(_file, buffer.AsSpan(0, (int)Math.Min(buffer.Length, _size - at)), at);
            if (read == 0) return false;
            hash.AppendData(buffer, 0, read);
            at += read;
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset()) == etag;
    }

    /// <summary>Gives the whole file its name. It must have been found to match.</summary>
    public void Complete(string blob)
    {
        RandomAccess.FlushToDisk(_file);
        Dispose();
        File.Move(_path, blob, overwrite: true);
        File.Delete(_rangesPath);
    }

    /// <summary>Takes away what can't be gone on from.</summary>
    public void Delete()
    {
        Dispose();
        File.Delete(_rangesPath);
        File.Delete(_path);
    }

    public void Dispose()
    {
        _file.Dispose();
        _ranges.Dispose();
    }

    private void SetDone(int range, long done)
    {
        Volatile.Write(ref _done[range], done);
        Span<byte> number = stackalloc byte[sizeof(long)];
        BinaryPrimitives.WriteInt64LittleEndian(number, done);
        RandomAccess.Write(_ranges, number, Header + range * sizeof(long));
    }

    /// <summary>What is there of each range; nothing where the two files do not speak of this length.</summary>
    private static long[] ReadDone(string blob, long size, long rangeBytes)
    {
        (string path, string rangesPath) = Paths(blob);
        long[] none = new long[checked((int)((size + rangeBytes - 1) / rangeBytes))];
        if (HubCache.Length(path) != size) return none;
        byte[] numbers = new byte[Header + none.Length * sizeof(long)];
        try
        {
            using SafeFileHandle ranges =
                File.OpenHandle(rangesPath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
            if (RandomAccess.GetLength(ranges) != numbers.Length
                || RandomAccess.Read(ranges, numbers, 0) != numbers.Length) return none;
        }
        catch (FileNotFoundException)
        {
            return none; // never begun, or just now completed by somebody else
        }
        long Number(int at) => BinaryPrimitives.ReadInt64LittleEndian(numbers.AsSpan(at));
        if (Number(0) != Mark || Number(8) != size || Number(16) != rangeBytes) return none;
        long[] done = new long[none.Length];
        for (int i = 0; i < done.Length; i++)
        {
            done[i] = Number(Header + i * sizeof(long));
            if (done[i] < 0 || done[i] > Math.Min(rangeBytes, size - i * rangeBytes)) return none;
        }
        return done;
    }

    private static (string Bytes, string Ranges) Paths(string blob) =>
        (blob + ".native.incomplete", blob + ".native.ranges.incomplete");
}
